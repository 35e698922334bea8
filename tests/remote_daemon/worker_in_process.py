"""A worker's session without a process or a socket: what a client would send is run at once, on plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule

from dynamo_genie.lowering.graph import lower
from dynamo_genie.lowering.rewrites import LAYOUT_REWRITES, REWRITES
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.pipeline import run_passes
from dynamo_genie.passes.understanding.analysis import analyse
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.programs import Build
from dynamo_genie.remote_daemon.worker.session_fetches import SendSnapshot
from dynamo_genie.remote_daemon.worker.session_peers import PeerPort
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.remote_daemon.worker.state import WorkerState, open_state
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from tests.captured import capture


class WorkerInProcess:
    """One session of a worker on the CPU."""

    def __init__(
        self,
        memory_limit: int = 1 << 40,
        build: Build | None = None,
        state: WorkerState | None = None,
        send_bulk: SendSnapshot = lambda snapshot: 0,
    ) -> None:
        """Open a session of a worker of its own, or of the one whose `state` are given."""
        self.state = state or open_state(HostBufferStore(), Offloader(memory_limit), build=build)
        state = self.state
        self.budget, self.arenas, self.programs = state.budget, state.arenas, state.programs
        staging, traffic = Staging(state.host_budget, state.allocate, state.session_share), PeerTraffic()
        port = PeerPort(Arrivals(staging, traffic, lambda: None), traffic, {}, lambda link, out: None)
        self.session = WorkerSession(state, staging, send_bulk, port)
        self.stream = CommandStream(self.session)
        self.now = 0.0
        self._sequence = 0
        self._last = 0
        self._numbers: dict[p.Program, int] = {}

    def send(self, *commands: m.Command) -> list[m.WorkerToClient]:
        """Run commands; a failure of one that is not answered shows in the next answer."""
        self._sequence += 1
        with torch.inference_mode():
            return list(self.stream.take(m.Batch(self._sequence, tuple(commands)), 0, self.now))

    def put(self, tensor: torch.Tensor) -> int:
        """Name a copy of a tensor."""
        self._last += 1
        self.session.handles.add(self._last, tensor.clone())
        return self._last

    def call(self, program: p.Program, *inputs: Any) -> list[int]:
        """Run a program and return the handles of its results; raise if it failed."""
        handles = [self._last + 1 + i for i in range(len(program.outputs))]
        self._last += len(handles)
        self.send(m.Call(self._number(program), 0, tuple(inputs), tuple(handles)))
        self.check()
        return handles

    def value(self, handle: int) -> torch.Tensor:
        """Return the tensor that a handle names, as it lies in the worker."""
        return self.session.handles.tensor(handle)

    def free(self, handles: Sequence[int]) -> None:
        self.send(m.Free(tuple(handles)))

    def check(self) -> None:
        """Raise what a client would be told."""
        *news, reply = self.send(m.Sync(1))
        assert isinstance(reply, m.Done)
        for late in news:
            assert isinstance(late, m.LateFailures)
            raise AssertionError(late.errors[0].message)

    def _number(self, program: p.Program) -> int:
        if program not in self._numbers:
            self._numbers[program] = len(self._numbers) + 1
            encoded = p.encode_program(program)
            self.send(m.RegisterProgram(self._numbers[program], p.program_digest(encoded), encoded))
        return self._numbers[program]


# --- compiled functions ----------------------------------------------------------------------------------


class CompiledInProcess:
    """A captured graph that runs in a `WorkerInProcess`; what it returns stays there under a handle too."""

    def __init__(self, worker: WorkerInProcess, program: p.Program) -> None:
        self._worker = worker
        self.program = program

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        worker = self._worker
        inputs = [self._input(value) for value in args]
        with unset_fake_temporarily():
            results = [local_copy(worker, handle) for handle in worker.call(self.program, *inputs)]
            for position in self.program.mutated_inputs:
                args[position].copy_(worker.value(inputs[position]))
        return tuple(results)

    def _input(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        known = getattr(value, "worker_handle", None)
        return self._worker.put(value.detach()) if known is None else known


def local_copy(worker: WorkerInProcess, handle: int) -> torch.Tensor:
    """Return a plain copy that is taken for the handle when it comes back."""
    with torch.inference_mode(False):
        copy = worker.value(handle).detach().contiguous().clone()
    copy.worker_handle = handle  # type: ignore[attr-defined]
    return copy


def compile_in_process(
    worker: WorkerInProcess, function: Callable[..., Any]
) -> tuple[Callable[..., Any], list[p.Program]]:
    """Return `function` compiled to Programs that run in `worker`, and those Programs; all results must be tensors."""
    programs: list[p.Program] = []

    def replace_graph(gm: GraphModule) -> Callable[..., Any]:
        gm = run_passes(gm, REWRITES).gm
        analyse(gm, Origins())
        gm = run_passes(gm, LAYOUT_REWRITES).gm
        program = lower(gm).program
        programs.append(program)
        return CompiledInProcess(worker, program)

    return capture(function, replace_graph)[0], programs
