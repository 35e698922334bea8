"""Maps the folders at the repository root to subpackages of `dynamo_genie`. Metadata lives in pyproject.toml.

A wheel with top-level modules named `runtime` or `passes` would break for anyone with such a folder beside their
script, so everything installs under one name. The symbolic links in `dynamo_genie/` make the same names work from a
bare checkout. `tests/test_packaging.py` compares this list with the folders on disk.
"""

from setuptools import setup

SUBPACKAGES = (
    "bench", "bench.network", "bench.peers", "bench.study", "bench.study.report", "cli", "explain", "passes", "runtime",
    "runtime.wire", "remote_daemon", "remote_daemon.engines",
)  # fmt: skip
AT_THE_ROOT = ("passes", "runtime", "remote_daemon")


def folder(subpackage: str) -> str:
    """Where a subpackage lies: `runtime.wire` in `runtime/wire`, `cli` in `dynamo_genie/cli`."""
    path = subpackage.replace(".", "/")
    return path if path.split("/")[0] in AT_THE_ROOT else f"dynamo_genie/{path}"


if __name__ == "__main__":
    setup(
        packages=["dynamo_genie", *(f"dynamo_genie.{name}" for name in SUBPACKAGES)],
        package_dir={"dynamo_genie": "dynamo_genie", **{f"dynamo_genie.{name}": folder(name) for name in SUBPACKAGES}},
        package_data={"dynamo_genie": ["py.typed"]},
    )
