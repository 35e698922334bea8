"""`python -m benchmarks.modes`: the same as `genie bench modes`."""

from dynamo_genie.cli.bench_modes import app

if __name__ == "__main__":
    app()
