"""The machine under a measurement: what it is, and one thread a side. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path


def describe_machine() -> dict[str, str | int | float]:
    """Return what a reader needs to compare a figure with their own."""
    packages = ("torch", "pyzmq", "transformers")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version_of(name))},
        **_gpu(),
    }


def use_one_thread() -> None:
    """Let operators of this process and of the daemons it starts use one thread; call it before torch is imported."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def memory_kib(pid: int, field: str) -> int:
    """Return a field of `/proc/PID/status` in KiB: `VmRSS` is resident now, `VmHWM` its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise OSError(f"/proc/{pid}/status has no {field}; memory can be measured on Linux only")


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process in KiB: pages that it shares count as its share of them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")


def reset_peak_memory(pid: int) -> None:
    """Let `VmHWM` of a process start again from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu() -> dict[str, str]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return {}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return {"gpu": done.stdout.splitlines()[0]} if done.returncode == 0 and done.stdout.strip() else {}
