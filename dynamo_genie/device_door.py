"""`torch.remote_accelerator`, until the device is used: it answers what PyTorch asks of any device, and loads the rest.

PyTorch asks at each `torch.manual_seed` and wherever it looks for an accelerator, also in programs that know nothing of
the device. To these it is not available, unless daemons are named.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from dynamo_genie.device_name import NAME
from dynamo_genie.torch_internals.device.generators import allow_generators
from dynamo_genie.torch_internals.device.guard import mend
from dynamo_genie.torch_internals.device.presence import UNNAMED, enter, hide_accelerator_until, name_of_device, unseen


@unseen
class Door(ModuleType):
    """The module of the device.

    Attributes:
        devices: How many there are; none until the device is used.
        threads: For how many devices autograd has a thread.
        mended: Whether errors may pass through backward passes (`torch_internals/device/guard.py`).
        kernels: What PyTorch runs on the device, once it is used; they last as long as these do.
    """

    def __init__(self, load: Callable[[], ModuleType]) -> None:
        """Wait to be used; `load` then lets the device compute, and returns the rest of the module."""
        super().__init__(f"torch.{NAME}", "Tensors in daemons: docs/device.md.")
        self._load = load
        self.lock = threading.RLock()
        self.kernels: tuple[torch.library.Library, ...] = ()
        self.devices = self.threads = 0
        self.mended = False

    def is_available(self) -> bool:
        """Whether a program that takes what accelerator there is should take this one: used before, or named."""
        if not self.devices and os.environ.get("GENIE_DAEMONS"):
            self._load()
        return self.devices > 0

    def is_used(self, index: int) -> bool:
        """Whether there is a device of an index, and the device was used."""
        return index < self.devices

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing more than `torch.manual_seed`, which calls this, has done: the device draws as the CPU."""

    def _is_in_bad_fork(self) -> bool:
        return False  # a forked child opens sessions of its own

    def tag(self, storage: Any) -> str | None:
        """Leave it to tensors of the device to say where they were when they are saved."""
        return None

    def restore(self, storage: Any, location: str) -> Any:
        """Return on the device what `torch.load` has read of a storage; None where it is to be elsewhere."""
        return self._load().restore_storage(storage, location) if location.startswith(NAME) else None

    def __getattr__(self, name: str) -> Any:
        """Return what programs call of the device, which uses it."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._load(), name)


def open_door(load: Callable[[], ModuleType]) -> Door:
    """Return the module of the device, which is made and told to PyTorch at the first call.

    Raises:
        RuntimeError: The process has another device of the kind that PyTorch does not know.
    """
    known = getattr(torch, NAME, None)
    if isinstance(known, Door):
        return known
    door = Door(load)
    if name_of_device() not in (NAME, UNNAMED):
        raise RuntimeError(
            f"this process has the device {name_of_device()!r}, and PyTorch lets a process have one that it does not "
            f"know: {NAME} cannot be another. Start it with TORCH_DEVICE_BACKEND_AUTOLOAD=0, or without that package"
        )
    enter(NAME, door, door.is_available, door.is_used)
    torch.serialization.register_package(1, door.tag, door.restore)
    hide_accelerator_until(door.is_available)
    door.mended = mend(lambda: door.threads)
    allow_generators()
    return door
