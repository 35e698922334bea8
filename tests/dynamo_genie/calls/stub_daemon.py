"""A client's connection to a daemon that is a stub in this process: it notes commands and answers with sizes alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.calls.graph import CompiledGraph
from dynamo_genie.calls.parts import Placement, whole
from dynamo_genie.calls.plan import CallPlan, plan_calls
from dynamo_genie.calls.prediction import StubWorker
from dynamo_genie.connections.connection import Connection
from dynamo_genie.errors import SessionLost
from dynamo_genie.lowering.graph import lower
from dynamo_genie.lowering.output_shapes import OutputShapes, shapes_of
from dynamo_genie.modes import MODES
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.weights.weights import ResidentWeights
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.writes.write_tracking import make_write_tracker
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.captured import capture


class Recorder(StubWorker):
    """A stub that notes what it is told, has no weights, and runs programs in "eager"."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[m.Command] = []
        self.spans: list[tuple[int, int, int]] = []

    def _answer(self, command: m.Command) -> m.WorkerToClient | None:
        self.commands.append(command)
        match command:
            case m.QueryWeights():
                return m.WeightsMissing(command.request_id, tuple(range(len(command.digests))))
            case m.AdoptWeight():
                self.specs[command.handle] = command.spec
            case m.Call():
                now = time.time_ns()
                self.spans.append((command.program, now, now + 1))
            case m.Inspect():
                spans, self.spans = tuple(self.spans), []
                return m.Inspection(command.request_id, 1 << 40, 0, 0, (), (), (), spans, ())
        return super()._answer(command)

    def of(self, *kinds: type) -> list[Any]:
        """Return the commands of some types so far."""
        return [command for command in self.commands if isinstance(command, kinds)]


def connection_to(worker: StubWorker, ids: int = 0) -> Connection:
    """Return a connection whose session has minted `ids` ids."""
    welcome: Any = None
    attachment = Attachment(welcome, worker, worker.bulk, Liveness(), lambda: None)
    session = Session(attachment, 1.0)
    session.identity.ids.last = ids
    return Connection("stub", session, ResidentWeights(session.weight_channel, make_write_tracker()))


def lose(connection: Connection) -> None:
    """End a connection, as a worker does that dies."""
    connection.session.attachment.liveness.end(SessionLost("the worker died"))


def graph_of(function: Callable[..., Any], *args: Any, dynamic: bool = False) -> GraphModule:
    """Return the ATen graph of a function of these arguments."""
    compiled, captured = capture(function, dynamic=dynamic)
    compiled(*args)
    return captured.forward[0]


class Called:
    """A graph whose calls go to one stub."""

    def __init__(
        self, gm: GraphModule, *, ids: int = 0, resident: Sequence[int] = (), gradients: Sequence[int] = (), **more: Any
    ) -> None:
        self.gm = gm
        self.worker = Recorder()
        self.connection = connection_to(self.worker, ids)
        self.session = self.connection.session
        self.shapes: OutputShapes = shapes_of(gm)
        self.plan: CallPlan = plan_calls(
            gm, MODES["semantic"], "auto", frozenset(resident), gradients=frozenset(gradients), **more
        )
        self.placement: Placement = whole(self.connection, lower(gm), self.plan, self.shapes)
        self.graph = CompiledGraph(self.shapes, self.plan, lambda _: self.placement)

    def remote(self, tensor: torch.Tensor) -> RemoteTensor:
        """Return a remote tensor like a local one."""
        return RemoteTensor(tensor.shape, tensor.stride(), tensor.dtype, self.session.new_handle())
