"""`python -m benchmarks.arenas`: the same as `genie bench arenas`."""

from dynamo_genie.cli.bench_arenas import app

if __name__ == "__main__":
    app()
