"""`python -m benchmarks.passes`: the same as `genie bench passes`."""

from dynamo_genie.cli.bench_passes import app

if __name__ == "__main__":
    app()
