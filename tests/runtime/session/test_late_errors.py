"""Errors that come beside an answer: kept until somebody hears of them, and told once."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.runtime.session.call_log import KEPT, CallLog
from dynamo_genie.runtime.session.late_errors import MAX_UNTOLD, STORING, LateErrors
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensors import spec_of
from tests.in_process import WorkerEnd, session_in_process
from tests.runtime.session.test_session import call, fetch


@pytest.fixture
def session() -> Iterator[Session]:
    session, worker = session_in_process(5.0)
    yield session
    session.close()
    worker.close()


def error(number: int, operator: str = "aten.mm.default") -> m.ErrorInfo:
    return m.ErrorInfo("RuntimeError", f"error {number}", operator, 1, 0, "", number, number)


def logged(late: LateErrors, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    late.log(lambda found: found.message)  # type: ignore[attr-defined]
    return [record.getMessage().rpartition(": ")[2] for record in caplog.records]


def fails(session: Session) -> Handle:
    return call(session, "aten.mm.default", session.put(torch.ones(2)), session.put(torch.ones(2)))


# --- what was told -----------------------------------------------------------------------------------------


def test_news_that_are_repeated_are_old(caplog: pytest.LogCaptureFixture) -> None:
    late = LateErrors()
    news = m.LateFailures((error(1), error(3)), omitted=2)
    assert late.learn(news) == [error(1), error(3)]
    assert late.learn(news) == []
    assert logged(late, caplog) == ["error 1", "error 3", "2 more commands failed since the last answer"]
    assert logged(late, caplog) == []
    assert late.take_all() == error(1)
    assert late.take_all() is None


def test_who_was_told_is_not_told_again_be_it_before_the_news(caplog: pytest.LogCaptureFixture) -> None:
    late = LateErrors()
    late.told(2)
    late.learn(m.LateFailures((error(1), error(2), error(3))))
    late.told(1)
    assert logged(late, caplog) == ["error 3"]
    assert late.take_all() == error(3)


def test_errors_of_storing_are_for_those_who_store(caplog: pytest.LogCaptureFixture) -> None:
    late = LateErrors()
    late.learn(m.LateFailures((error(1), error(2, STORING), error(3, STORING))))
    assert logged(late, caplog) == ["error 1"]
    assert late.take_storing() == error(2, STORING)
    assert late.take_storing() is None
    assert late.take_all() == error(1)


def test_so_many_errors_are_kept_and_no_more() -> None:
    late = LateErrors()
    for number in range(1, 2 * MAX_UNTOLD, 2):
        late.learn(m.LateFailures((error(number), error(number + 1))))
    kept = 0
    while (found := next(iter(late._untold.values()), None)) is not None:
        late.told(found.number)
        kept += 1
    assert kept == MAX_UNTOLD


# --- when and where ----------------------------------------------------------------------------------------


def test_a_call_is_known_by_its_number_and_when_it_was_made() -> None:
    log = CallLog()
    for _ in range(KEPT + 2):
        log.note()
    last = KEPT + 2
    assert log.count == last
    assert log.describe(last) == f"in call {last} of this session, made 0.0 s before this was raised"
    assert log.describe(3).endswith(" s before this was raised, 4,095 calls ago")
    assert log.made_at(last) >= log.made_at(3) > 0
    assert log.describe(2) == "in call 2 of this session, over 4,096 calls ago"
    assert (log.made_at(2), log.describe(0), log.describe(last + 1)) == (0.0, "", "")


# --- a session ---------------------------------------------------------------------------------------------


def test_of_several_tensors_the_poisoned_ones_alone_are_errors(session: Session) -> None:
    good, large, bad = session.put(torch.ones(2)), session.put(torch.ones(1 << 18)), fails(session)
    follows = call(session, "aten.neg.default", bad)
    handles = [bad.id, good.id, large.id, follows.id]
    first, two, three, last = session.fetch_each(handles, ["output"] * 4)
    assert isinstance(two, Tensor)
    assert isinstance(three, Tensor)
    assert (two.sum().item(), three.sum().item()) == (2.0, 1 << 18)
    for each in (first, last):
        assert isinstance(each, RuntimeError)
        assert "in call 1 of this session" in str(each)
    assert "remote traceback" in str(first)
    assert "remote traceback" not in str(last), "the answer has it once"
    with pytest.raises(RuntimeError):
        session.fetch(handles, ["output"] * 4)
    assert session.settle() is None


def test_a_session_settles_with_the_first_error_and_logs_the_others(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        kept = [fails(session) for _ in range(3)]
        settled = session.settle()
        assert settled is not None
        assert "in call 1 of this session" in str(settled[1])
        assert settled[0] == session.identity.calls.made_at(1)
        assert ["in call 2" in caplog.text, "in call 3" in caplog.text, "in call 1 " in caplog.text] == [
            True,
            True,
            False,
        ]
    assert session.settle() is None
    assert len(kept) == 3


def test_a_content_without_room_is_an_error_of_whoever_stores_it_and_of_nobody_else(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    channel = session.weight_channel
    with session.lock, caplog.at_level(logging.WARNING):
        channel.store(b"d" * 32, spec_of(torch.ones(1)), 77)
        session.post(m.Sync(request := session.request_id()))
        session.wait(request)
        assert not caplog.records
        with pytest.raises(Exception, match="upload"):
            channel.sync()
        channel.sync()
    assert session.settle() is None


def test_a_wait_for_room_raises_no_error_of_another_call(ends_with_little_room: tuple[Session, WorkerEnd]) -> None:
    session, _ = ends_with_little_room
    bad = fails(session)
    with session.lock, pytest.raises(QuotaExceeded):
        session.upload(memoryview(bytes(1 << 21)))
    with pytest.raises(RuntimeError):
        fetch(bad)
    assert fetch(session.put(torch.ones(1))).tolist() == [1.0]


@pytest.fixture
def ends_with_little_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Session, WorkerEnd]]:
    monkeypatch.setattr("tests.in_process.MEMORY_LIMIT", 1 << 20)
    session, worker = session_in_process(5.0)
    yield session, worker
    session.close()
    worker.close()
