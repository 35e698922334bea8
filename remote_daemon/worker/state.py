"""The state of a worker: the memory, weights and programs that all its sessions share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from dynamo_genie.remote_daemon.channel.program_note import ProgramNote
from dynamo_genie.remote_daemon.engines.build import Engines
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.device_buffers import DeviceBufferStore
from dynamo_genie.remote_daemon.memory.host_memory import Allocate, allocate_host, machine_nbytes
from dynamo_genie.remote_daemon.memory.host_pool import HostPool
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.memory.process_limit import ProcessLimit
from dynamo_genie.remote_daemon.memory.recycled_memory import KEEP_NBYTES, RecycledMemory
from dynamo_genie.remote_daemon.memory.weight_store import Kept, WeightStore
from dynamo_genie.remote_daemon.model_files.catalogue import Catalogue
from dynamo_genie.remote_daemon.model_files.models import Models
from dynamo_genie.remote_daemon.worker.programs import Build, ProgramCache

HOST_SHARE = 0.5
"""The part of the machine's memory that its GPUs' workers use by default, for uploads and for what is offloaded."""

KEEP_SHARE = 8
"""Of that, so much at most is kept for the next upload: an eighth, beside what is counted."""


@dataclass
class Served:
    """What a worker has done for all its sessions, those that ended too."""

    calls: int = 0
    commands: int = 0


@dataclass(frozen=True)
class WorkerState:
    """The state that all sessions of a worker share.

    Attributes:
        budget: Of the device's memory.
        host_budget: Of memory for bytes on their way; the same one where the device's memory is the host's.
        allocate: Returns host memory for what is on its way in.
        session_share: The part of a memory that one session may have.
        host: Where idle sessions' tensors are offloaded to when memory is short, None where there is no such place.
        served: Counts what was done.
        note: Where to say which program runs.
        models: The models in the daemon's files.
    """

    buffers: BufferStore
    weights: WeightStore
    programs: ProgramCache
    budget: MemoryBudget
    arenas: KVArenas
    host_budget: MemoryBudget
    offloader: Offloader
    allocate: Allocate
    host: HostPool | None
    note: ProgramNote
    session_share: float
    models: Models
    served: Served = field(default_factory=Served)


def open_state(
    buffers: BufferStore,
    offloader: Offloader,
    *,
    host_limit: int = 0,
    build: Build | None = None,
    note: ProgramNote | None = None,
    quarantined: Collection[bytes] = (),
    process_limit: ProcessLimit | None = None,
    session_share: float = 1.0,
    kept: Kept | None = None,
    models: Models | None = None,
) -> WorkerState:
    """Make a worker's state, each part from those before it.

    Args:
        offloader: Makes room in the buffers' memory; the buffers of a device were made with it.
        host_limit: Bytes of host memory beside a device's.
        build: Makes programs run; by default with the engines of the buffers' device.
        note: Where to say which program runs; by default where nobody else sees it.
        quarantined: Digests of programs to refuse.
        process_limit: What programs must keep to.
        session_share: The part of the memory that one session may have.
        kept: Weights that outlive the worker.
        models: The models in the daemon's files; none by default.
    """
    budget = offloader.budget
    arenas = KVArenas(budget, buffers.empty)
    limit = process_limit or ProcessLimit()
    note = note or ProgramNote()
    host, host_budget, allocate = None, budget, allocate_host
    if isinstance(buffers, DeviceBufferStore):
        host_budget = MemoryBudget(host_limit, "--host-memory-limit")
        host = HostPool(buffers, host_budget, budget)
        keep_nbytes = min(KEEP_NBYTES, host_limit // KEEP_SHARE)
        allocate = RecycledMemory(keep_nbytes).allocate  # an upload's memory is free again when the device has its copy
    build = build or Engines(buffers, arenas, limit).build
    programs = ProgramCache(buffers.device, build, host_budget, limit.check, note, quarantined)
    weights = WeightStore(buffers, budget, host, host_budget, kept=kept, allocate=allocate)
    offloader.add_weights(weights)
    return WorkerState(
        buffers, weights, programs, budget, arenas, host_budget, offloader, allocate, host, note, session_share,
        models or Models(Catalogue(())),
    )  # fmt: skip


def default_host_limit(devices: int) -> int:
    """Return the host memory that each worker may use beside its device, where `devices` share a machine."""
    return int(HOST_SHARE * machine_nbytes() / devices)
