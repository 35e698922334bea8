"""`torch.remote_accelerator`, once it is used: what programs ask the module of a device (the rest is the door's)."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device.restored_storage import restore_storage
from dynamo_genie.device.streams import Event, Place, Stream, current_stream, default_stream, set_stream, stream
from dynamo_genie.device_name import NAME

__all__ = [
    "Event", "Stream", "current_device", "current_stream", "default_stream", "device", "device_count",
    "device_of", "empty_cache", "empty_host_cache", "get_amp_supported_dtype", "get_device_capability",
    "get_device_name", "get_rng_state", "get_rng_state_all", "init", "initial_seed", "is_bf16_supported",
    "is_initialized", "manual_seed", "max_memory_allocated", "max_memory_reserved", "mem_get_info",
    "memory_allocated", "memory_reserved", "memory_stats", "reset_accumulated_memory_stats",
    "reset_peak_memory_stats", "restore_storage", "seed", "seed_all", "set_device", "set_rng_state",
    "set_rng_state_all", "set_stream", "stream", "synchronize",
]  # fmt: skip


def is_initialized() -> bool:
    """Whether anything is connected."""
    return bool(CONNECTIONS.all())


def init() -> None:
    """Connect the current device."""
    DEVICES.session(DEVICES.current)


def _lazy_init() -> None:
    """Do nothing: what PyTorch calls before it makes a tensor on the device; that it could has registered all."""


def device_count() -> int:
    """Return how many devices there are: the daemons of the fleet, one where none is named."""
    return DEVICES.count


def current_device() -> int:
    """Return the index of the current device."""
    return DEVICES.current


def set_device(device: Place) -> None:
    """Make a device the current one."""
    DEVICES.current = DEVICES.index(device)


class device:  # noqa: N801  # as in torch.cuda
    """A context in which another device is the current one."""

    def __init__(self, device: Place) -> None:
        self.idx = DEVICES.index(device)
        self.prev_idx = -1

    def __enter__(self) -> None:
        self.prev_idx, DEVICES.current = DEVICES.current, self.idx

    def __exit__(self, *_: object) -> None:
        DEVICES.current = self.prev_idx


class device_of(device):  # noqa: N801  # as in torch.cuda
    """The same, for the device of a tensor; nothing changes where that is on another kind of device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.device if tensor.device.type == NAME else None)


def synchronize(device: Place = None) -> None:
    """Wait until a device has run everything so far, and raise the first error that nobody was told of."""
    DEVICES.synchronize(DEVICES.index(device))


def get_device_name(device: Place = None) -> str:
    """Return what the daemon runs on."""
    return DEVICES.session(DEVICES.index(device)).device.name


def get_device_capability(device: Place = None) -> dict[str, Any]:
    """Return what the device supports: the dtypes that can travel."""
    from dynamo_genie.tensors import WIRE_DTYPES

    return {"supported_dtypes": set(WIRE_DTYPES)}


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the dtypes that autocast may choose."""
    return [torch.bfloat16, torch.float16, torch.float32]


def is_bf16_supported() -> bool:
    """Whether bfloat16 can be computed with."""
    return True


# --- random numbers: the device draws from the generator of the CPU, so that a seed gives the same numbers ----


def manual_seed(seed: int) -> None:
    """Seed what the device draws from: the generator of the CPU."""
    torch.default_generator.manual_seed(int(seed))


def seed() -> None:
    """Seed with a number that is not known."""
    torch.default_generator.seed()


seed_all = seed


def initial_seed() -> int:
    """Return what was seeded with."""
    return torch.default_generator.initial_seed()


def get_rng_state(device: Place = None) -> torch.Tensor:
    """Return the state of what the device draws from."""
    return torch.default_generator.get_state()


def set_rng_state(new_state: torch.Tensor, device: Place = None) -> None:
    """Set it."""
    torch.default_generator.set_state(new_state)


def get_rng_state_all() -> list[torch.Tensor]:
    """Return the state for each device."""
    return [get_rng_state()] * device_count()


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    """Set it."""
    for state in new_states:
        set_rng_state(state)


def __getattr__(name: str) -> Any:
    if name == "default_generators":
        return (torch.default_generator,) * device_count()
    raise AttributeError(f"module 'torch.{NAME}' has no attribute {name!r}")


# --- memory --------------------------------------------------------------------------------------------------


def mem_get_info(device: Place = None) -> tuple[int, int]:
    """Return how many bytes of the daemon's limit are free, and the limit."""
    state = DEVICES.session(DEVICES.index(device)).inspect()
    return state.memory_limit - state.memory_used, state.memory_limit


def memory_allocated(device: Place = None) -> int:
    """Return how many bytes are in use in the daemon, by whomever."""
    return DEVICES.session(DEVICES.index(device)).inspect().memory_used


def memory_stats(device: Place = None) -> dict[str, int]:
    """Return what is known of the daemon's memory, in bytes."""
    state = DEVICES.session(DEVICES.index(device)).inspect()
    return {
        "allocated_bytes.all.current": state.memory_used,
        "reserved_bytes.all.current": state.memory_used,
        "limit_bytes.all.current": state.memory_limit,
    }


memory_reserved = memory_allocated
"""The daemon keeps nothing in reserve that is not in use by somebody."""


def max_memory_allocated(device: Place = None) -> int:
    """Refuse: a daemon keeps no peak.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("daemons keep no peak of their memory; memory_allocated() returns what is in use now")


max_memory_reserved = reset_peak_memory_stats = reset_accumulated_memory_stats = max_memory_allocated


def empty_host_cache() -> None:
    """Do nothing: no pinned memory is kept."""


def empty_cache() -> None:
    """Give back what is no longer used: tell the daemons what was freed here."""
    for connection in CONNECTIONS.all():
        if connection.alive:
            with connection.session.lock:
                connection.session.flush()


ACCELERATOR = MappingProxyType(
    {
        "synchronize": "synchronize",
        "current_stream": "current_stream",
        "set_stream": "set_stream",
        "set_device_index": "set_device",
        "set_device_idx": "set_device",
        "current_device_idx": "current_device",
        "max_memory_allocated": "max_memory_allocated",
        "max_memory_reserved": "max_memory_reserved",
        "reset_peak_memory_stats": "reset_peak_memory_stats",
        "reset_accumulated_memory_stats": "reset_accumulated_memory_stats",
        "empty_host_cache": "empty_host_cache",
        "current_device_index": "current_device",
        "memory_allocated": "memory_allocated",
        "memory_reserved": "memory_reserved",
        "memory_stats": "memory_stats",
        "get_memory_info": "mem_get_info",
        "empty_cache": "empty_cache",
        "get_device_capability": "get_device_capability",
    }
)
"""Functions of `torch.accelerator`, and what they are here."""
