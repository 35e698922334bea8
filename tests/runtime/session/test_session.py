"""A session of the client joined to one of a worker, in this process: ids, programs, tensors, failures, attachments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dynamo_genie.errors import (
    DaemonUnavailable,
    EngineWarning,
    ProtocolError,
    QuotaExceeded,
    RequestTimeout,
    SessionLost,
    StaleHandleError,
)
from dynamo_genie.runtime.attachment.trust import Trust
from dynamo_genie.runtime.session.command_queue import FLUSH_AT_COMMANDS
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, MAX_INLINE_NBYTES, UPLOAD_WINDOW, WINDOW_BATCHES
from dynamo_genie.tensors import spec_of
from tests.in_process import ControlToWorker, WorkerEnd, attachment_to, session_in_process

Ends = tuple[Session, WorkerEnd]


@pytest.fixture
def ends() -> Iterator[Ends]:
    session, worker = session_in_process(5.0)
    yield session, worker
    session.close()
    worker.close()


def program_of(operator: str, inputs: int = 1, scalar: int | None = None) -> p.Program:
    node = p.Node(operator, (*(p.Ref(i) for i in range(inputs)), *(() if scalar is None else (scalar,))))
    return p.Program(p.PROGRAM_VERSION, (p.TensorInput(),) * inputs, (), (node,), (p.Ref(inputs),))


def register(session: Session, program: p.Program, line: str = "model.py:7") -> int:
    encoded = p.encode_program(program)
    return session.register(p.program_digest(encoded), encoded, (line,))


def call(session: Session, operator: str, *inputs: Handle, scalar: int | None = None) -> Handle:
    with session.lock:
        result = session.new_handle()
        number = register(session, program_of(operator, len(inputs), scalar))
        session.post(m.Call(number, 0, tuple(handle.id for handle in inputs), (result.id,)))
        return result


def fetch(handle: Handle) -> Tensor:
    return handle.session.fetch([handle.id], ["output"])[0]


def counted(session: Session) -> tuple[int, int, int]:
    """How many ids, requests and batches there were."""
    identity = session.identity
    return identity.ids.last, identity.ids.last_request, identity.batches


# --- ids ---------------------------------------------------------------------------------------------------


def test_handles_are_counted_while_they_live_and_the_worker_forgets_them(ends: Ends) -> None:
    session, worker = ends
    handles = [session.put(torch.ones(2)) for _ in range(3)]
    session.sync()
    assert (session.live_handles, len(worker.session.handles)) == (3, 3)
    del handles[0]
    assert session.live_handles == 2
    session.sync()
    assert (session.live_handles, len(worker.session.handles)) == (2, 2)
    handles.clear()
    session.sync()
    assert (session.live_handles, len(worker.session.handles)) == (0, 0)


def test_an_id_of_a_weight_is_no_handle(ends: Ends) -> None:
    session, worker = ends
    channel = session.weight_channel
    with session.lock:
        assert channel.missing([b"d" * 32]) == {0}
        for _ in range(3):
            channel.free(channel.mint())
        session.flush()
    assert (session.live_handles, len(worker.session.handles)) == (0, 0)


def test_ids_requests_and_batches_are_counted_under_one_identity(ends: Ends) -> None:
    session, _ = ends
    ids, requests, batches = counted(session)
    fetch(session.put(torch.ones(1)))
    assert counted(session) == (ids + 1, requests + 1, batches + 1)


# --- programs ----------------------------------------------------------------------------------------------


def test_a_program_is_sent_once_for_each_engine(ends: Ends) -> None:
    session, worker = ends
    first = register(session, program_of("aten.relu.default"))
    assert register(session, program_of("aten.relu.default")) == first
    encoded = p.encode_program(program_of("aten.relu.default"))
    assert session.register(p.program_digest(encoded), encoded, (), "eager") != first
    session.sync()
    assert len(worker.session._calls._programs) == 2


def test_a_failure_names_the_operator_and_the_line_of_the_program(ends: Ends) -> None:
    session, _ = ends
    wrong = call(session, "aten.mm.default", session.put(torch.ones(2)), session.put(torch.ones(2)))
    with pytest.raises(RuntimeError, match=r"(?s)in aten\.mm\.default.*called at model\.py:7.*remote traceback"):
        fetch(wrong)
    assert session.alive
    assert fetch(call(session, "aten.neg.default", session.put(torch.ones(1)))).tolist() == [-1.0]


def test_news_of_an_engine_are_a_warning_that_names_the_line(ends: Ends) -> None:
    session, _ = ends
    number = register(session, program_of("aten.relu.default"))
    control = session.attachment.control
    assert isinstance(control, ControlToWorker)
    control.say(m.EngineFellBack(number, "no compiler"))
    with pytest.warns(EngineWarning, match=r"begins at model\.py:7 runs eager in the daemon: no compiler"):
        session.sync()


# --- tensors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 4, MAX_INLINE_NBYTES, MAX_INLINE_NBYTES + 4, 2 * CHUNK_NBYTES + 4])
def test_a_tensor_of_any_size_comes_back_as_it_went(ends: Ends, nbytes: int) -> None:
    session, _ = ends
    tensor = torch.randn(nbytes // 4)
    assert torch.equal(fetch(session.put(tensor)), tensor)
    assert session.counters.sent["input"] == session.counters.received["output"] == tensor.nbytes


def test_an_upload_larger_than_the_window_waits_for_credits(ends: Ends) -> None:
    session, worker = ends
    data = memoryview(bytes((UPLOAD_WINDOW + 5) * CHUNK_NBYTES))
    number = session.upload(data)
    assert worker.staging.claim(number).received == data.nbytes


def test_many_uploads_arrive_in_order_and_the_worker_hears_of_the_first_before_the_last(ends: Ends) -> None:
    session, worker = ends
    batches: list[int] = []
    numbers: list[int] = []

    def arrived(number: int) -> None:
        numbers.append(number)
        batches.append(counted(session)[2])
        session.post(m.PutUploaded(session.mint(), spec_of(torch.empty(8 << 20, dtype=torch.uint8)), number))

    session._uploads.send_many([memoryview(bytes(8 << 20))] * 4, arrived)
    assert numbers == sorted(numbers)
    assert batches[-1] > batches[0]
    session.sync()
    assert len(worker.session.handles) == 4


def test_an_upload_without_room_is_tried_again_after_what_died_is_given_back() -> None:
    session, worker = session_in_process(5.0)
    room = 4 << 20
    worker.state.budget.limit = room
    first = session.put(torch.zeros(3 << 18))  # 3 MiB
    session.sync()
    with pytest.raises(QuotaExceeded):
        session.upload(memoryview(bytes(2 << 20)))
    del first
    assert worker.staging.claim(session.upload(memoryview(bytes(2 << 20)))).nbytes == 2 << 20
    session.close()


def test_descriptions_are_those_of_the_workers_tensors(ends: Ends) -> None:
    session, _ = ends
    made = call(session, "aten.t.default", session.put(torch.ones(2, 3)))
    assert session.describe([made])[0].shape == (3, 2)


# --- commands ----------------------------------------------------------------------------------------------


def test_commands_travel_in_batches_and_what_died_travels_before_a_call(ends: Ends) -> None:
    session, worker = ends
    before = counted(session)[2]
    handles = [session.put(torch.ones(1)) for _ in range(FLUSH_AT_COMMANDS - 1)]
    assert counted(session)[2] == before
    handles.append(session.put(torch.ones(1)))
    assert counted(session)[2] == before + 1
    kept = handles.pop()
    handles.clear()
    result = call(session, "aten.neg.default", kept)
    session.flush()
    assert len(worker.session.handles) == 2
    assert fetch(result).tolist() == [-1.0]


def test_an_answer_that_stays_away_is_an_error_that_says_how_to_wait_longer(ends: Ends) -> None:
    session, _ = ends
    with pytest.raises(RequestTimeout, match=r"did not answer within 0\.2 s \(request_timeout_s"):
        session._commands.answer(999, 0.2)


def control_of(session: Session) -> ControlToWorker:
    control = session.attachment.control
    assert isinstance(control, ControlToWorker)
    return control


def test_a_lost_answer_comes_again_on_the_next_connection(ends: Ends) -> None:
    session, worker = ends
    request_id = session.request_id()
    session.post(m.Sync(request_id))
    session.flush()
    assert control_of(session).receive() is not None  # the answer goes astray
    control_of(session).interrupted = True
    assert session.wait(request_id) == m.Done(request_id)
    assert session.counters.events["reconnects"] == 1
    assert fetch(session.put(torch.ones(1))).tolist() == [1.0]
    assert worker.unheard == 1, "what was heard is forgotten with the next batch"


def test_an_answer_that_was_lost_without_a_trace_comes_after_a_silence(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = ends
    monkeypatch.setattr(session._commands, "_trust", Trust(first_s=0.0))
    counter = session.put(torch.zeros(1))
    call(session, "aten.add_.Scalar", counter, scalar=1)
    request_id = session.request_id()
    session.post(m.Sync(request_id))
    session.flush()
    assert control_of(session).receive() is not None  # the answer goes astray
    assert session.wait(request_id) == m.Done(request_id)
    assert fetch(counter).tolist() == [1.0]


def test_what_a_broken_connection_lost_is_sent_again_and_runs_once(ends: Ends) -> None:
    session, worker = ends
    counter = session.put(torch.zeros(1))
    session.flush()
    control = control_of(session)
    for lost in (False, True, True, False):
        control.loses = lost
        call(session, "aten.add_.Scalar", counter, scalar=1)
        session.flush()
    assert worker.detached, "the last batch did not follow what had come"
    assert fetch(counter).tolist() == [4.0]
    assert session.counters.events["reconnects"] == 1


def test_more_than_a_window_waits_until_some_of_it_ran(ends: Ends) -> None:
    session, _ = ends
    kept = session.put(torch.ones(1))
    for _ in range(3 * WINDOW_BATCHES):
        kept = call(session, "aten.neg.default", kept)
        session.flush()
    assert len(list(session._commands._sent.after(0))) <= WINDOW_BATCHES
    assert fetch(kept).tolist() == [1.0]
    assert not list(session._commands._sent.after(0)), "an answer says that all before it ran"


def test_a_worker_that_runs_nothing_is_waited_for_so_long(ends: Ends) -> None:
    session, _ = ends
    session._commands._timeout_s = 0.2
    control_of(session).loses = True
    for _ in range(WINDOW_BATCHES):
        session.post(m.Free(()))
        session.flush()
    session.post(m.Free(()))
    with pytest.raises(RequestTimeout, match=r"did not answer within 0\.2 s"):
        session.flush()


def test_an_answer_of_another_kind_breaks_the_protocol(ends: Ends) -> None:
    session, _ = ends
    control = session.attachment.control
    assert isinstance(control, ControlToWorker)
    control.say(m.Done(counted(session)[1] + 1))
    with pytest.raises(ProtocolError, match="expected 1 fetched tensors, got Done"):
        fetch(session.put(torch.ones(1)))


# --- life --------------------------------------------------------------------------------------------------


def test_reading_alive_writes_nothing(ends: Ends) -> None:
    session, _ = ends
    liveness = session.attachment.liveness
    for alive in (True, False):
        before = dict(vars(session)), repr(vars(liveness))
        assert session.alive is alive
        assert (dict(vars(session)), repr(vars(liveness))) == before
        liveness.end(SessionLost("the lease ran out"))


def test_the_first_reason_is_the_one_that_every_later_use_names(ends: Ends) -> None:
    session, _ = ends
    handle = session.put(torch.ones(1))
    session.attachment.liveness.end(DaemonUnavailable("the daemon went away"))
    session.close()
    for _ in range(2):
        with pytest.raises(StaleHandleError, match="the daemon went away") as caught:
            fetch(handle)
        assert isinstance(caught.value.__cause__, DaemonUnavailable)


def test_a_closed_session_says_so(ends: Ends) -> None:
    session, worker = ends
    handle = session.put(torch.ones(1))
    session.close()
    session.close()
    with pytest.raises(StaleHandleError, match=r"this process closed it: .*; compute it again"):
        fetch(handle)
    assert len(worker.session.handles) == 0


def test_a_forked_child_is_refused(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = ends
    handle = session.put(torch.ones(1))
    with monkeypatch.context() as patch:
        patch.setattr("dynamo_genie.runtime.attachment.liveness.os.getpid", lambda: -1)
        assert not session.alive
        with pytest.raises(StaleHandleError, match="belongs to the parent process"):
            fetch(handle)
        session.close()  # the parent's: nothing happens
    assert fetch(handle).tolist() == [1.0]


def test_a_weight_that_failed_makes_the_weights_doubtful_once_and_the_session_goes_on(ends: Ends) -> None:
    session, _ = ends
    channel = session.weight_channel
    kept = session.put(torch.ones(1))
    with session.lock:
        channel.adopt(session.mint(), b"d" * 32, spec_of(torch.ones(1)))
        assert not channel.take_doubt(), "nobody knows yet"
    assert fetch(kept).tolist() == [1.0]
    assert (channel.take_doubt(), channel.take_doubt()) == (True, False)
    settled = session.settle()
    assert settled is not None
    assert isinstance(settled[1], ProtocolError)
    assert "AdoptWeight" in str(settled[1])


# --- attachments -------------------------------------------------------------------------------------------


def test_an_attachment_is_replaced_under_a_living_session(ends: Ends) -> None:
    session, worker = ends
    x = session.put(torch.tensor([1.0, 2.0]))
    y = call(session, "aten.neg.default", x)
    session.sync()
    queued = call(session, "aten.relu.default", y)
    old = session.attachment
    old.liveness.end(SessionLost("the connection was cut"))
    assert not session.alive

    session.reattach(attachment_to(worker), 5.0)

    assert session.alive
    assert session.attachment is not old
    assert y.session is session
    assert fetch(y).tolist() == [-1.0, -2.0]
    assert fetch(queued).tolist() == [0.0, 0.0]
    large = torch.randn(3 * CHUNK_NBYTES // 4)
    assert torch.equal(fetch(call(session, "aten.neg.default", session.put(large))), -large)
    number = register(session, program_of("aten.neg.default"))
    assert number == register(session, program_of("aten.neg.default")), "programs are not sent again"
    with pytest.raises(SessionLost, match="this transport is closed"):
        old.control.send(codec.encode(m.Batch(999, ())))
    del x, y, queued
    session.sync()
    assert (session.live_handles, len(worker.session.handles)) == (0, 0)


def test_uploads_go_on_with_a_whole_window_after_a_replacement(ends: Ends) -> None:
    session, worker = ends
    session.upload(memoryview(bytes(5 * CHUNK_NBYTES)))
    session.reattach(attachment_to(worker), 5.0)
    data = memoryview(bytes((UPLOAD_WINDOW + 1) * CHUNK_NBYTES))
    assert worker.staging.claim(session.upload(data)).received == data.nbytes


def test_a_twin_goes_on_apart(ends: Ends) -> None:
    session, _ = ends
    number = register(session, program_of("aten.neg.default"))
    session.upload(memoryview(bytes(CHUNK_NBYTES)))
    session.sync()
    elsewhere = attachment_to(WorkerEnd())
    twin = session.twin(elsewhere.control, elsewhere.bulk)
    assert counted(twin) == counted(session)
    assert register(twin, program_of("aten.neg.default")) == number
    register(twin, program_of("aten.relu.default"))
    assert counted(twin) != counted(session)
    twin.close()
    assert session.alive
    elsewhere.close()


# --- links -------------------------------------------------------------------------------------------------


def test_a_link_between_client_and_worker_is_measured(ends: Ends) -> None:
    session, worker = ends
    measured = session.measure_link()
    assert measured.latency_s > 0
    assert measured.bytes_per_s > 0
    assert worker.state.budget.used == 0, "the probes are given back"
