"""`python -m benchmarks.network`: the same as `genie bench network`."""

from dynamo_genie.cli.bench_network import app

if __name__ == "__main__":
    app()
