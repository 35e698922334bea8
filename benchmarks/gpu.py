"""`python -m benchmarks.gpu`: the same as `genie bench gpu`."""

from dynamo_genie.cli.bench_gpu import app

if __name__ == "__main__":
    app()
