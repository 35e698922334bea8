"""`python -m benchmarks.kv_length`: the same as `genie bench kv-length`."""

from dynamo_genie.cli.bench_kv_length import app

if __name__ == "__main__":
    app()
