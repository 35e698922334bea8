"""Measurements, each runnable alone: `python -m benchmarks.NAME`. The measuring code is in `dynamo_genie.bench`."""
