"""A daemon whose CPU workers manage their memory as those of a GPU do: `python -m ... daemon ARGUMENTS`, or a worker.

Host memory stands in for the device's, behind the interfaces of a GPU worker's memory; everything else is real.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from dynamo_genie.remote_daemon.memory.pinned_ring import SLOTS
from tests.remote_daemon.own_workers import run_daemon_with

SLOT_NBYTES = 100_000
NAME = "tests.remote_daemon.simulated_worker"


def run_worker() -> None:
    """Run a worker as the supervisor starts it."""
    from dynamo_genie.remote_daemon.memory import host_pool
    from dynamo_genie.remote_daemon.memory.device_buffers import DeviceBufferStore
    from dynamo_genie.remote_daemon.memory.device_memory import DeviceMemory
    from dynamo_genie.remote_daemon.memory.offloader import Offloader
    from dynamo_genie.remote_daemon.memory.pinned_ring import PinnedRing
    from dynamo_genie.remote_daemon.worker import worker
    from tests.remote_daemon.simulated_device import FakeAllocator, LivePool, PromptDevice

    class Store(DeviceBufferStore):
        def synchronize(self) -> None:
            """Nothing is launched: operators are through when they return."""

    def open_buffers(device: torch.device, offloader: Offloader) -> Store:
        slots = [torch.zeros(SLOT_NBYTES, dtype=torch.uint8) for _ in range(SLOTS)]
        memory = DeviceMemory(offloader.budget.limit, LivePool(), FakeAllocator(), offloader.free)
        return Store(device, memory, PinnedRing(slots, PromptDevice(0)))

    worker.open_buffers = open_buffers  # type: ignore[attr-defined]
    host_pool.MIN_OFFLOADED_NBYTES = 1
    worker.main()


def main(arguments: Sequence[str]) -> None:
    """Be a daemon or a worker."""
    if arguments[:1] == ["daemon"]:
        run_daemon_with(NAME)
    else:
        run_worker()


if __name__ == "__main__":
    main(sys.argv[1:])
