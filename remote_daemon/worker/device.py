"""The device of a worker: which one, and how much of its memory may be used."""

from __future__ import annotations

import torch

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.cupy_memory import open_cuda_memory
from dynamo_genie.remote_daemon.memory.device_buffers import DeviceBufferStore
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.host_memory import machine_nbytes
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.worker.device_speed import measure_speed
from dynamo_genie.runtime.wire.messages import DeviceInfo

USABLE_SHARE = 0.9
"""The part of a device's memory that a worker may use by default; the driver and the libraries need some themselves."""


def choose_device(name: str) -> torch.device:
    """Return the device that `--device` names ("auto": the first CUDA device, else the CPU).

    Raises:
        OptionError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name.startswith("cuda"):
        device = torch.device(name)
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= found:
            raise OptionError(f"--device {name}: torch {torch.__version__} finds {found} CUDA devices on this machine")
        return torch.device("cuda", index)
    raise OptionError(f"--device {name!r} is unknown; use auto, cpu or cuda:N")


def open_buffers(device: torch.device, offloader: Offloader) -> BufferStore:
    """Return the store for a device's memory, in which `offloader` makes room within its budget.

    The device becomes the current one of this thread, the executor's: CuPy goes back to the thread's own device after
    each of its calls, and setting one opens a context there, some hundred MiB on a card that belongs to somebody else.

    Raises:
        OptionError: What a GPU needs is not installed.
    """
    if device.type == "cpu":
        return HostBufferStore()
    torch.cuda.set_device(device)
    return DeviceBufferStore(device, *open_cuda_memory(device, offloader.budget.limit, offloader.free))


def device_info(device: torch.device, memory_limit: int, devices: int = 1) -> DeviceInfo:
    """Describe the device; a limit of 0 becomes the usable share of its memory.

    The machine's own memory is shared by as many `devices` as a daemon has.
    """
    if device.type == "cuda":
        total, name = torch.cuda.get_device_properties(device).total_memory, torch.cuda.get_device_name(device)
    else:
        total, name = machine_nbytes() // devices, "cpu"
    speed = measure_speed(device)
    limit = memory_limit or int(total * USABLE_SHARE)
    return DeviceInfo(device.type, name, limit, str(torch.__version__), speed.flops_per_s, speed.bytes_per_s)
