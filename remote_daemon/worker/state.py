"""What all sessions of a worker share: memory, weights, programs, and who makes room for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dynamo_genie.remote_daemon.engines.build import EngineRoom
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.device_buffers import DeviceBufferStore
from dynamo_genie.remote_daemon.memory.eviction import Evictions, Holder
from dynamo_genie.remote_daemon.memory.host_memory import allocate_host, machine_nbytes
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.offloaded import HostSpace
from dynamo_genie.remote_daemon.memory.recycled_memory import RecycledMemory
from dynamo_genie.remote_daemon.memory.weight_store import WeightStore
from dynamo_genie.remote_daemon.transfer.staging import Allocate
from dynamo_genie.remote_daemon.worker.programs import Build, ProgramCache

HOST_SHARE = 0.5
"""The part of the machine's memory that its GPUs' workers use by default, for uploads and for what was evicted."""


@dataclass(frozen=True)
class Services:
    """What all sessions of a worker share.

    Attributes:
        budget: Of the device's memory.
        host_budget: Of memory for bytes on their way; the same one where the device's memory is the host's.
        allocate: Returns host memory for what is on its way in.
        host: Where idle sessions' tensors go when memory is short, None where there is no such place.
    """

    buffers: BufferStore
    weights: WeightStore
    programs: ProgramCache
    budget: MemoryBudget
    arenas: KVArenas
    host_budget: MemoryBudget
    evictions: Evictions
    allocate: Allocate
    host: HostSpace | None


def open_services(
    buffers: BufferStore,
    limit: int,
    *,
    host_limit: int = 0,
    sessions: Callable[[], Iterable[Holder]] = tuple,
    build: Build | None = None,
) -> Services:
    """Put together what a worker's sessions share.

    Args:
        limit: Bytes of the device's memory for what stays.
        host_limit: Bytes of host memory beside a device's.
        sessions: The sessions there are at the moment.
        build: Makes programs run; by default with the engines of the buffers' device.
    """
    budget = MemoryBudget(limit)
    arenas = KVArenas(budget, buffers.empty)
    programs = ProgramCache(build or EngineRoom(buffers, arenas).build)
    if not isinstance(buffers, DeviceBufferStore):
        weights = WeightStore(buffers, budget)
        evictions = Evictions(budget, weights, tuple)  # of another thread too: there is nowhere to move sessions to
        budget.make_room = evictions.make_room
        return Services(buffers, weights, programs, budget, arenas, budget, evictions, allocate_host, None)
    host_budget = MemoryBudget(host_limit, "--host-memory-limit")
    host = HostSpace(buffers, host_budget, budget)
    weights = WeightStore(buffers, budget, host)
    evictions = Evictions(budget, weights, sessions)
    budget.make_room = evictions.make_room
    buffers.memory.evict = evictions.free
    allocate = RecycledMemory().allocate  # an upload's memory is free again when the device has its copy
    return Services(buffers, weights, programs, budget, arenas, host_budget, evictions, allocate, host)


def default_host_limit(devices: int) -> int:
    """Return the host memory that each worker may use beside its device, where `devices` share a machine."""
    return int(HOST_SHARE * machine_nbytes() / devices)
