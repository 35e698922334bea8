"""A session's commands that send tensors to other workers and receive theirs. Sans-IO; runs in the executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import msgspec
import torch

from dynamo_genie.errors import DaemonUnavailable, RequestTimeout
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.remote_daemon.worker.command_stream import NotYet
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable, PoisonedInput
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensors import is_dense

MAX_ROUTE = 64
"""Links of which an error remembers that it came through them."""

SendOutgoing: TypeAlias = "Callable[[int, Outgoing], None]"
"""Hands a tensor to the bulk thread, for a link."""


@dataclass(frozen=True)
class PeerPort:
    """Where a session meets the bulk thread; `link_failures` says which links can send nothing more, and why."""

    arrivals: Arrivals
    traffic: PeerTraffic
    link_failures: dict[int, str]
    send: SendOutgoing


class SessionPeers:
    """Executes `SendTensor` and `ReceiveTensor` of one session."""

    def __init__(self, port: PeerPort, handles: HandleTable, buffers: BufferStore, budget: MemoryBudget) -> None:
        self.port = port
        self._handles = handles
        self._buffers = buffers
        self._budget = budget

    def send(self, command: m.SendTensor) -> None:
        """Copy a tensor's bytes and hand them over."""
        problem = self.port.link_failures.get(command.link)
        if problem is not None:
            raise DaemonUnavailable(problem)
        self.port.send(command.link, self._outgoing(command))

    def send_error(self, command: m.SendTensor, error: m.ErrorInfo) -> None:
        """Let an error take the place of a tensor, if the receiver can still be reached."""
        if command.link not in self.port.link_failures:
            self.port.send(command.link, Outgoing(command.transfer, command.kind, None, memoryview(b""), error))

    def receive(self, command: m.ReceiveTensor) -> NotYet | None:
        """Name a tensor that has arrived."""
        found = self.port.arrivals.take(command.link, command.transfer)
        if found is None:
            return NotYet(command.timeout_s)
        if isinstance(found, m.ErrorInfo):
            raise PoisonedInput(arrived_error(found, command.link))
        self._handles.add(command.handle, self._buffers.adopt(found.spec, found.upload.memory))
        return None

    def give_up(self, command: m.ReceiveTensor) -> RequestTimeout:
        """Wait no longer for a tensor and return what to raise."""
        self.port.arrivals.give_up(command.link, command.transfer)
        return RequestTimeout(self.port.arrivals.why_missing(command.link, command.timeout_s))

    def _outgoing(self, command: m.SendTensor) -> Outgoing:
        tensor = self._handles.tensor(command.handle)
        nbytes = tensor.numel() * tensor.element_size()
        self._budget.reserve(nbytes, f"a copy of {nbytes:,} bytes for another daemon")
        try:
            spec, data = self._buffers.to_host(_dense(tensor))
        except BaseException:
            self._budget.release(nbytes)
            raise
        return Outgoing(command.transfer, command.kind, spec, data, release=partial(self._budget.release, nbytes))


def arrived_error(error: m.ErrorInfo, link: int) -> m.ErrorInfo:
    """Return an error that came through a link as it is known here; one that came too far begins anew."""
    if not error.number:
        return error
    if len(error.route) == MAX_ROUTE:
        return msgspec.structs.replace(error, program=-1, node=-1, number=0, call=0, route=())
    return msgspec.structs.replace(error, route=(link, *error.route))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without gaps whose dimensions lie in memory in the same order.

    A view that its graph takes of it later was possible on the original; on a copy in another order it might not be.
    """
    return tensor if is_dense(tensor.shape, tensor.stride()) else tensor.clone(memory_format=torch.preserve_format)
