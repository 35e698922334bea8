"""A session's fetches: small tensors inside the answer, larger ones as snapshots that the bulk thread sends.

What a client saves, so that it need not be computed again should this worker die, is fetched in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.memory.snapshot import CopiedSnapshot, SharedSnapshot, TensorSnapshot
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable, PoisonedInput
from dynamo_genie.remote_daemon.worker.state import WorkerState
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_FETCH_INLINE_NBYTES, MAX_LATE
from dynamo_genie.runtime.wire.record import brief
from dynamo_genie.tensors import is_dense, spec_of

SendSnapshot: TypeAlias = Callable[[TensorSnapshot], int]
"""Hands a snapshot to the bulk thread and returns the number of the download."""


class SessionFetches:
    """Executes `Fetch` and `Save` of one session."""

    def __init__(self, handles: HandleTable, state: WorkerState, send: SendSnapshot) -> None:
        self._handles = handles
        self._buffers = state.buffers
        self._arenas = state.arenas
        self._budget = state.host_budget
        self._send = send

    def fetch(self, command: m.Fetch) -> m.Fetched:
        """Return what each handle names, or why there is nothing.

        Raises:
            QuotaExceeded: A tensor must be copied to be sent, and there is no room for the copy.
        """
        if self._handles.lent:
            self._handles.take_back_ended()
        room = MAX_FETCH_INLINE_NBYTES
        tensors: list[m.FetchedTensor | m.ErrorInfo] = []
        whole: set[int] = set()
        for handle in command.handles:
            try:
                tensor = self._handles.tensor(handle)
            except PoisonedInput as poisoned:
                error = poisoned.error
                tensors.append(brief(error) if error.number in whole or len(whole) >= MAX_LATE else error)
                whole.add(error.number)
                continue
            nbytes = tensor.numel() * tensor.element_size()
            if nbytes <= room:
                room -= nbytes
                spec, data = self._buffers.to_host(tensor)
                tensors.append(m.FetchedTensor(spec, bytes(data)))
            else:
                tensors.append(self._download(handle, tensor, nbytes))
        return m.Fetched(command.request_id, tuple(tensors))

    def save(self, command: m.Save) -> m.Saved:
        """Return what is to be saved: small tensors in the answer, the others by bulk, those too large not at all.

        Where only what is small is asked for, all of it comes in the answer, as far as it has room.
        """
        if self._handles.lent:
            self._handles.take_back_ended()
        room = MAX_FETCH_INLINE_NBYTES
        found: list[m.FetchedTensor | None] = []
        for handle in command.handles:
            tensor = self._whole(handle)
            if tensor is None:
                found.append(None)
                continue
            inline = tensor.nbytes <= room
            if tensor.nbytes > command.largest or not (inline or command.largest > MAX_FETCH_INLINE_NBYTES):
                found.append(m.FetchedTensor(spec_of(tensor), b""))
            elif inline:
                room -= tensor.nbytes
                spec, data = self._buffers.to_host(tensor)
                found.append(m.FetchedTensor(spec, bytes(data)))
            else:
                found.append(self._download(handle, tensor, tensor.nbytes))
        return m.Saved(command.request_id, tuple(found))

    def _whole(self, handle: int) -> torch.Tensor | None:
        """Return a tensor that lies dense from the beginning of its memory, or would in eager PyTorch; None for others.

        Behind it there may be more: the kernels of some losses shrink what they make.
        """
        try:
            tensor = self._handles.tensor(handle)
        except (GenieError, PoisonedInput, torch.OutOfMemoryError):
            return None
        if handle in self._handles.arena_views:
            return tensor if self._arenas.is_whole(tensor) else None
        if tensor.is_conj() or tensor.is_neg() or not is_dense(tensor.shape, tensor.stride()):
            return None
        return tensor if tensor.storage_offset() == 0 else None

    def _download(self, handle: int, tensor: torch.Tensor, nbytes: int) -> m.FetchedTensor:
        """Send a tensor by the bulk connection, out of its own memory where it lies there as it travels."""
        flat = self._buffers.in_place(tensor)
        if flat is None:
            return self._download_copy(tensor, nbytes)
        shared = SharedSnapshot(flat)
        self._handles.lend(handle, shared)
        return m.FetchedTensor(spec_of(tensor), b"", self._send(shared))

    def _download_copy(self, tensor: torch.Tensor, nbytes: int) -> m.FetchedTensor:
        self._budget.reserve(nbytes, f"a copy of {nbytes:,} bytes to be fetched")
        try:
            spec, data = self._buffers.to_host(tensor)
        except BaseException:
            self._budget.release(nbytes)
            raise
        return m.FetchedTensor(spec, b"", self._send(CopiedSnapshot(data, self._budget)))
