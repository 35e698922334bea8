"""`python -m benchmarks.peers`: the same as `genie bench peers`."""

from dynamo_genie.cli.bench_peers import app

if __name__ == "__main__":
    app()
