"""Maps the folders at the repository root to subpackages of `dynamo_genie`. Metadata lives in pyproject.toml.

A wheel with top-level modules named `runtime` or `passes` would break for anyone with such a folder beside their
script, so everything installs under one name. The symbolic links in `dynamo_genie/` make the same names work from a
bare checkout. `tests/test_packaging.py` compares this list with the folders on disk.
"""

from setuptools import setup

SUBPACKAGES = (
    "bench", "bench.device", "bench.gpu_check", "bench.network", "bench.peers", "bench.pipelines",
    "bench.study", "bench.study.report", "bench.trust", "calls", "cli", "connections", "device", "explain", "loading",
    "lowering", "passes",
    "passes.cutting", "passes.graphs", "passes.pipelines", "passes.placement", "passes.rewrites", "passes.rows",
    "passes.understanding", "remote_daemon",
    "remote_daemon.channel", "remote_daemon.engines", "remote_daemon.memory", "remote_daemon.model_files",
    "remote_daemon.operators",
    "remote_daemon.sandbox", "remote_daemon.supervisor", "remote_daemon.transfer", "remote_daemon.weight_files",
    "remote_daemon.worker", "runtime", "runtime.attachment", "runtime.connect", "runtime.recovery", "runtime.session",
    "runtime.weights", "runtime.wire", "runtime.writes", "tensor", "torch_internals", "torch_internals.device",
)  # fmt: skip
AT_THE_ROOT = {"bench": "benchmarks", "passes": "passes", "runtime": "runtime", "remote_daemon": "remote_daemon"}
"""Subpackages whose folder stands at the root of the repository, and that folder's name."""


def folder(subpackage: str) -> str:
    """Where a subpackage lies: `runtime.wire` in `runtime/wire`, `cli` in `dynamo_genie/cli`."""
    top, *rest = subpackage.split(".")
    return "/".join((AT_THE_ROOT.get(top, f"dynamo_genie/{top}"), *rest))


if __name__ == "__main__":
    setup(
        packages=["dynamo_genie", *(f"dynamo_genie.{name}" for name in SUBPACKAGES)],
        package_dir={"dynamo_genie": "dynamo_genie", **{f"dynamo_genie.{name}": folder(name) for name in SUBPACKAGES}},
        package_data={"dynamo_genie": ["py.typed"]},
        include_package_data=False,  # else the results in `benchmarks` would go into every wheel
    )
