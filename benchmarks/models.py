"""`python -m benchmarks.models`: the same as `genie bench models`."""

from dynamo_genie.cli.bench_models import app

if __name__ == "__main__":
    app()
