"""The tests of dynamo_genie; the folders mirror those of the package."""
