"""Makes `remote_accelerator` a device of PyTorch's; once a process, and nothing is connected."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from dynamo_genie.device import module
from dynamo_genie.device.autocast import casting_kernels
from dynamo_genie.device.composites import COMPOSITES
from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device.factories import KERNELS, make
from dynamo_genie.device_name import NAME
from dynamo_genie.torch_internals.device_guard import mend
from dynamo_genie.torch_internals.private_device import (
    answer_for_accelerator,
    let_foreach_take,
    register,
    register_autocast,
    register_kernels,
    rename,
    swap_parameters_of,
)

log = logging.getLogger(__name__)


def _count() -> int:
    """Return how many devices autograd is to know, whatever the settings are worth."""
    try:
        return DEVICES.count
    except Exception:  # noqa: BLE001  # C++ asks, and cannot bear an error; whoever makes a tensor is told
        return 1


def _refuse_to_load(storage: Any, location: str) -> None:
    """Refuse to load plain memory onto the device: PyTorch would make memory of it that is nowhere.

    Raises:
        RuntimeError: `map_location` names the device.
    """
    if location.startswith(NAME):
        raise RuntimeError(
            f"torch.load cannot map memory to {location}: load it with map_location='cpu', then move it with "
            f".to({location!r}) or load_state_dict"
        )


@cache
def register_device() -> tuple[torch.library.Library, ...]:
    """Register the device, its module and its kernels, and what else PyTorch must know of its tensors."""
    rename(NAME)
    register(NAME, module.as_module(), module.is_available)
    if not mend(_count):
        log.warning(
            "on this torch an error in a backward pass on %s ends the process, and only %s:0 can have gradients",
            NAME,
            NAME,
        )
    let_foreach_take(DeviceTensor)
    swap_parameters_of(DeviceTensor)
    torch.serialization.register_package(1, lambda storage: None, _refuse_to_load)
    answer_for_accelerator(NAME, module.as_module(), module.ACCELERATOR)
    return *register_kernels(KERNELS, COMPOSITES, make), *register_autocast(casting_kernels())
