"""`python -m benchmarks.report`: the same as `genie bench report`."""

from dynamo_genie.cli.bench_report import app

if __name__ == "__main__":
    app()
