"""`python -m benchmarks.concurrency`: the same as `genie bench concurrency`."""

from dynamo_genie.cli.bench_concurrency import app

if __name__ == "__main__":
    app()
