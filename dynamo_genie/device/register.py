"""Lets the device compute: its kernels, and what else PyTorch must know of its tensors. Nothing is connected."""

from __future__ import annotations

import logging
from functools import partial
from types import ModuleType

import torch

from dynamo_genie.device import module
from dynamo_genie.device.autocast import CastWeights, casting_kernels
from dynamo_genie.device.composites import COMPOSITES
from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device.factories import KERNELS, make
from dynamo_genie.device_door import Door, open_door
from dynamo_genie.device_name import NAME
from dynamo_genie.errors import GenieError
from dynamo_genie.options import Options
from dynamo_genie.torch_internals.device.guard import start_threads
from dynamo_genie.torch_internals.device.kernels import register_autocast, register_kernels
from dynamo_genie.torch_internals.device.presence import has_an_accelerator
from dynamo_genie.torch_internals.device.replaced import (
    answer_for_accelerator,
    capture_without_device,
    let_foreach_take,
    on_dropped_casts,
    swap_parameters_of,
    swap_whoever_holds_them,
)

THREADS = 8
"""For how many devices autograd has threads, at least: a program may name its daemons after it has used the device."""

log = logging.getLogger(__name__)


def register_device() -> ModuleType:
    """Let tensors be made on the device; done once, when it is first used. Returns the device's module.

    Raises:
        RuntimeError: The process has another device of the kind that PyTorch does not know.
    """
    door = open_door(register_device)
    with door.lock:
        if not door.kernels:
            _replace_what_looks_at_devices()
            weights = CastWeights()
            on_dropped_casts(weights.drop)
            kernels = register_kernels(KERNELS, COMPOSITES, make)
            door.kernels = *kernels, *register_autocast(casting_kernels(weights))
            DEVICES.on_change = partial(_count_again, door)
            _count_again(door)
    return module


def use(options: Options) -> None:
    """Let the devices be the daemons of these options, unless some are in use already; those stay."""
    DEVICES.use(options)
    if hasattr(torch, NAME):
        register_device()


def _replace_what_looks_at_devices() -> None:
    capture_without_device()
    let_foreach_take(DeviceTensor)
    swap_parameters_of(DeviceTensor)
    swap_whoever_holds_them(DeviceTensor)
    answer_for_accelerator(NAME, module, module.ACCELERATOR)


def _count_again(door: Door) -> None:
    """Let autograd know how many devices there are.

    Raises:
        RuntimeError: There are more than it can be told of by now.
    """
    try:
        door.devices = DEVICES.count
    except GenieError:  # who makes a tensor is told
        door.devices = 1
    if not door.threads:
        _let_autograd_begin(door)
    elif door.devices > door.threads:
        raise RuntimeError(
            f"there are {door.devices} devices now, and autograd has threads for {door.threads}, made when the "
            "device was first used; name the daemons before that"
        )


def _let_autograd_begin(door: Door) -> None:
    def appear() -> None:
        door.threads = max(door.devices, THREADS)

    if not door.mended:
        log.warning(
            "on this torch an error in a backward pass on %s ends the process, and only %s:0 can have gradients",
            NAME,
            NAME,
        )
        door.threads = 1
    elif has_an_accelerator():
        appear()  # autograd has threads for that one's devices, or makes them now
    else:
        start_threads(appear)
