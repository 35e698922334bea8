"""How the inputs of one program get to its session, and how the call is posted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynamo_genie.errors import StaleHandleError
from dynamo_genie.lowering.graph import lower
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.tensor.program_call import LivesElsewhere, ProgramCall
from tests.dynamo_genie.calls.stub_daemon import Called, graph_of


@pytest.fixture(scope="module")
def gm() -> Any:
    return graph_of(lambda x, y: (x + y,), torch.ones(3), torch.ones(3))


@pytest.fixture(scope="module")
def writing() -> Any:
    return graph_of(lambda x: x.mul_(2), torch.ones(3))


def program_call(gm: Any) -> tuple[Called, ProgramCall]:
    called = Called(gm)
    return called, ProgramCall(called.session, lower(gm).program)


def test_numbers_and_what_nobody_reads_travel_as_they_are(gm: Any) -> None:
    _, call = program_call(gm)
    for value in (3, 2.5, True, None):
        call.add(0, value)
    assert call.inputs == [3, 2.5, True, 0]


def test_a_small_tensor_rides_in_the_call_and_a_large_one_goes_before_it(gm: Any) -> None:
    called, call = program_call(gm)
    call.add(0, torch.ones(3))
    call.add(1, torch.ones(MAX_INLINE_NBYTES))
    result = call.name_result()
    call.post(7, 8)
    called.session.flush()
    put, posted = called.worker.commands
    assert isinstance(put, m.PutUploaded)
    assert isinstance(posted, m.Call)
    assert (posted.program, posted.binding, posted.inputs[1]) == (7, 8, put.handle)
    assert posted.outputs == (result.id,)
    assert called.session.counters.sent["input"] == 12 + 4 * MAX_INLINE_NBYTES
    assert called.session.counters.events["calls"] == 1


def test_a_remote_tensor_and_a_handle_go_by_their_number(gm: Any) -> None:
    called, call = program_call(gm)
    remote = called.remote(torch.ones(3))
    call.add(0, remote)
    call.add(1, remote.handle)
    call.add(1, remote.carrier)
    assert remote.handle is not None
    assert call.inputs == [remote.handle.id] * 3


def test_of_an_expanded_tensor_only_what_is_not_repeated_is_sent(gm: Any) -> None:
    called, call = program_call(gm)
    call.add(0, torch.ones(3, 1).expand(3, 1000))
    call.post(1)
    called.session.flush()
    [put] = called.worker.of(m.Put)
    assert put.tensor.spec.shape == (3, 1)
    assert [type(c) for c in called.worker.commands] == [m.Put, m.RegisterProgram, m.Call, m.Free, m.Call]


def test_what_the_program_writes_gets_a_name_and_counts_as_a_result_when_it_comes_back(writing: Any) -> None:
    _, call = program_call(writing)
    local = torch.ones(3)
    call.add(0, local)
    [(written, handle)] = call.written
    assert written is local
    assert call.inputs == [handle.id]
    assert handle.kind == "output"


def test_what_lives_elsewhere_is_not_moved_without_leave_nor_written_ever(gm: Any, writing: Any) -> None:
    elsewhere = Called(gm).remote(torch.ones(3))
    _, call = program_call(gm)
    with pytest.raises(LivesElsewhere):
        call.add(0, elsewhere)
    _, call = program_call(writing)
    with pytest.raises(StaleHandleError, match="writes into its input 0"):
        call.add(0, elsewhere)


def test_what_lives_elsewhere_is_moved_with_leave(gm: Any) -> None:
    called, elsewhere = Called(gm), Called(gm).remote(torch.ones(3))
    moved = called.session.new_handle()
    asked: list[Any] = []
    call = ProgramCall(called.session, lower(gm).program, lambda *move: asked.append(move) or moved)  # type: ignore[func-returns-value]
    call.add(0, elsewhere, "activation")
    assert asked == [(elsewhere.handle, called.session, "activation")]
    assert call.inputs == [moved.id]


def test_a_program_that_draws_takes_the_generators_state_along_and_waits_for_it() -> None:
    gm = graph_of(lambda x: torch.nn.functional.dropout(x), torch.ones(3))
    called, call = program_call(gm)
    state = torch.get_rng_state()
    call.add(0, torch.ones(3))
    call.post(1, counted="eager_calls")
    [posted] = called.worker.of(m.Call)
    assert posted.rng == state.numpy().tobytes()
    assert posted.request_id > 0
    assert torch.equal(torch.get_rng_state(), state)  # the stub has drawn nothing
    assert called.session.counters.events["eager_calls"] == 1


def test_a_result_that_is_known_already_gets_no_name(gm: Any) -> None:
    called, call = program_call(gm)
    call.drop_result()
    handle = call.name_result("kv_cache")
    call.post(1)
    called.session.flush()
    [posted] = called.worker.of(m.Call)
    assert posted.outputs == (0, handle.id)
    assert handle.kind == "kv_cache"
