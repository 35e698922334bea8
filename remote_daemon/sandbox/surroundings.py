"""The surroundings of this process: where its Python, packages and libraries lie, and what the kernel can do."""

from __future__ import annotations

import glob
import os
import platform
import site
import sys
from importlib.util import find_spec
from pathlib import Path

from dynamo_genie import errors
from dynamo_genie.remote_daemon.sandbox import landlock, seccomp
from dynamo_genie.remote_daemon.sandbox.plan import Kernel, Surroundings

PACKAGES = ("torch", "numpy", "cupy", "triton", "torch_tensorrt", "nvidia", "msgspec", "zmq")
"""What a worker imports; an editable installation of one need not be on `sys.path`."""

LIBRARY_VARIABLES = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")


def here() -> Surroundings:
    """Return the surroundings of this process, as real paths."""
    places = [sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent), *sys.path]
    places += [site.getusersitepackages(), *_own_package(), *_packages(), sys.pycache_prefix or ""]
    variables = (os.environ.get(name, "") for name in LIBRARY_VARIABLES)
    libraries = [place for variable in variables for place in variable.split(os.pathsep) if place]
    return Surroundings(
        python=_real(places),
        libraries=_real(libraries),
        devices=tuple(sorted(nvidia_devices())),
        shared_memory=any(Path(sys.prefix, "lib").glob("libiomp5*")),
    )


def kernel() -> Kernel:
    """Return what this kernel can do for a sandbox."""
    return Kernel(landlock.version(), seccomp.available() and seccomp.filter_for(platform.machine()) is not None)


def nvidia_devices() -> list[str]:
    """Return the device files of NVIDIA's driver."""
    return glob.glob("/dev/nvidia*")


def _own_package() -> list[str]:
    """Return the directories of this package; in a bare checkout some are links out of it."""
    package = Path(errors.__file__).parent
    return [str(package), *(str(entry) for entry in package.iterdir() if entry.is_symlink())]


def _packages() -> list[str]:
    specs = (find_spec(name) for name in PACKAGES)
    return [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]


def _real(places: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(place) for place in places if place and os.path.exists(place)))
