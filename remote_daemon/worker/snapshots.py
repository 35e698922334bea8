"""Snapshots of a session's tensors: their bytes, where a tensor made of these is the same in all that shows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable, PoisonedInput
from dynamo_genie.remote_daemon.worker.state import WorkerState
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_FETCH_INLINE_NBYTES
from dynamo_genie.tensors import is_dense, spec_of


def take_snapshots(
    command: m.Save, handles: HandleTable, state: WorkerState, send_bulk: Callable[[memoryview], int]
) -> m.Saved:
    """Return what was asked for: small tensors in the answer, the others by bulk, those too large not at all.

    Where only what is small is asked for, all of it comes in the answer, as far as it has room.
    """
    room = MAX_FETCH_INLINE_NBYTES
    found: list[m.FetchedTensor | None] = []
    for handle in command.handles:
        tensor = _whole(handle, handles, state)
        if tensor is None:
            found.append(None)
            continue
        inline = tensor.nbytes <= room
        if tensor.nbytes > command.largest or not (inline or command.largest > MAX_FETCH_INLINE_NBYTES):
            found.append(m.FetchedTensor(spec_of(tensor), b""))
            continue
        spec, data = state.buffers.to_host(tensor)
        if inline:
            room -= data.nbytes
        found.append(m.FetchedTensor(spec, bytes(data)) if inline else m.FetchedTensor(spec, b"", send_bulk(data)))
    return m.Saved(command.request_id, tuple(found))


def _whole(handle: int, handles: HandleTable, state: WorkerState) -> torch.Tensor | None:
    """Return a tensor that is all of its memory, or that eager PyTorch would hold so; None for others."""
    try:
        tensor = handles.tensor(handle)
    except (GenieError, PoisonedInput, torch.OutOfMemoryError):
        return None
    if handle in handles.arena_views:
        return tensor if state.arenas.is_whole(tensor) else None
    if tensor.is_conj() or tensor.is_neg() or not is_dense(tensor.shape, tensor.stride()):
        return None
    whole = tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else None
