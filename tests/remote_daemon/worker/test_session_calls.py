"""A call in two steps: `prepare` looks everything up and runs nothing, `complete` names what the program returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable, PoisonedInput
from dynamo_genie.remote_daemon.worker.session_calls import SessionCalls
from dynamo_genie.remote_daemon.worker.session_inputs import SessionInputs
from dynamo_genie.remote_daemon.worker.state import open_state
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p

SUM_AND_DIFFERENCE = p.Program(
    p.PROGRAM_VERSION,
    (p.TensorInput(), p.TensorInput()),
    (),
    (p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(1))), p.Node("aten.sub.Tensor", (p.Ref(0), p.Ref(1)))),
    (p.Ref(2), p.Ref(3)),
)


class Calls:
    """The calls of one session, of a program that counts its runs; handles 1 and 2 name 5 and 3."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.runs = 0
        state = open_state(HostBufferStore(), Offloader(limit), build=self._build)
        self.handles = HandleTable(state.budget, state.weights, state.arenas)
        inputs = SessionInputs(self.handles, state.buffers, state.host_budget)
        self.calls = SessionCalls(state, Staging(state.host_budget), self.handles, inputs)
        encoded = p.encode_program(SUM_AND_DIFFERENCE)
        self.calls.register(m.RegisterProgram(1, p.program_digest(encoded), encoded))
        for handle, number in ((1, 5.0), (2, 3.0)):
            self.handles.add(handle, torch.tensor([number]))

    def _build(self, resolved: ResolvedProgram, engine: str, name: str) -> RunningProgram:
        return RunningProgram(name, self._run, engine, "", None, fell_back=False)

    def _run(self, inputs: list[Any]) -> tuple[Any, ...]:
        self.runs += 1
        one, other = inputs
        inputs.clear()
        return one + other, one - other

    def number(self, handle: int) -> float:
        return float(self.handles.tensor(handle))


def call(inputs: tuple[int, ...] = (1, 2), outputs: tuple[int, ...] = (3, 4), program: int = 1) -> m.Call:
    return m.Call(program, 0, inputs, outputs)


def test_preparing_looks_up_program_inputs_and_outputs_and_runs_nothing() -> None:
    session = Calls()
    launch = session.calls.prepare(call())
    assert [float(value) for value in launch.inputs] == [5.0, 3.0]
    assert launch.outputs == (3, 4)
    assert (session.runs, session.calls.count, len(session.handles)) == (0, 0, 2)


def test_results_have_their_handles_once_the_launch_is_complete() -> None:
    session = Calls()
    launch = session.calls.prepare(call(outputs=(3, 0)))
    values = launch.program.executable(launch.inputs)
    assert len(session.handles) == 2
    session.calls.complete(launch, values)
    assert session.number(3) == 8.0
    assert len(session.handles) == 3, "what nobody wants has no handle"


def test_a_launch_keeps_its_inputs_whatever_becomes_of_their_handles() -> None:
    session = Calls()
    launch = session.calls.prepare(call())
    session.handles.drop(1)
    session.calls.complete(launch, launch.program.executable(launch.inputs))
    assert (session.number(3), session.number(4)) == (8.0, 2.0)


def test_launches_complete_in_any_order() -> None:
    session = Calls()
    first, second = session.calls.prepare(call()), session.calls.prepare(call((2, 1), (5, 6)))
    for launch in (second, first):
        session.calls.complete(launch, launch.program.executable(launch.inputs))
    assert [session.number(handle) for handle in (3, 4, 5, 6)] == [8.0, 2.0, 8.0, -2.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (call(outputs=(3,)), "has 2 outputs, not 1"),
        (call(inputs=(1,)), "takes 2 inputs, not 1"),
        (call(inputs=(1, 9)), "handle 9 names nothing"),
        (call(program=7), "program 7 is not registered"),
    ],
)
def test_what_is_wrong_with_a_call_shows_before_anything_runs(wrong: m.Call, message: str) -> None:
    session = Calls()
    with pytest.raises(ProtocolError, match=message):
        session.calls.call(wrong)
    assert (session.runs, session.calls.count) == (0, 0)


def test_a_refused_program_fails_its_calls_with_the_reason_for_the_refusal() -> None:
    session = Calls()
    encoded = p.encode_program(SUM_AND_DIFFERENCE)
    error = m.ErrorInfo("UnsupportedOperator", "no such operator", "", 1, -1, "")
    session.calls.refuse(m.RegisterProgram(1, p.program_digest(encoded), encoded), error)
    with pytest.raises(PoisonedInput, match="no such operator"):
        session.calls.prepare(call())


def test_a_result_that_does_not_fit_is_not_named() -> None:
    session = Calls(limit=12)
    launch = session.calls.prepare(call())
    values = launch.program.executable(launch.inputs)
    with pytest.raises(QuotaExceeded):
        session.calls.complete(launch, values)
    assert len(session.handles) == 3, "the first one fitted"
