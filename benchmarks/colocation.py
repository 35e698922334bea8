"""`python -m benchmarks.colocation`: the same as `genie bench colocation`."""

from dynamo_genie.cli.bench_colocation import app

if __name__ == "__main__":
    app()
