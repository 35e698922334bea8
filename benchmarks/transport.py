"""`python -m benchmarks.transport`: the same as `genie bench transport`."""

from dynamo_genie.cli.bench_transport import app

if __name__ == "__main__":
    app()
