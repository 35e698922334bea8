"""`python -m benchmarks.decode`: the same as `genie bench decode`."""

from dynamo_genie.cli.bench_decode import app

if __name__ == "__main__":
    app()
