"""When a session goes on at another worker, when it ends, and what it says then."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from dynamo_genie.errors import DaemonUnavailable, SessionLost, StaleHandleError
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.recovery import MAX_DEATHS
from dynamo_genie.runtime.session.session import Session
from tests.in_process import Workers, attachment_to
from tests.runtime.recovery.test_histories import ADD, ADD_IN_PLACE, FIRST_ROW, TRANSPOSE, TWO_VIEWS, History


@pytest.fixture
def history() -> Iterator[History]:
    history = History(0)
    yield history
    history.session.close()
    history.workers.alive.close()


class Mayflies(Workers):
    """Workers each of which dies at the same message after it was attached."""

    lives = 3

    def _reopen(self) -> Attachment:
        self.dies_at = self.sent + self.lives if self.died else 0
        return super()._reopen()


def test_what_so_many_workers_die_of_is_the_cause_and_the_session_ends() -> None:
    workers = Mayflies()
    session = workers.session()
    handle = session.put(torch.ones(3))
    session.sync()
    workers.kill()
    with pytest.raises(SessionLost, match=f"{MAX_DEATHS} workers ended one after the other .*: worker 4 was killed"):
        session.fetch([handle.id], ["output"])
    assert workers.died == MAX_DEATHS + 1
    assert not session.alive
    with pytest.raises(StaleHandleError, match="worker 4 was killed"):
        session.fetch([handle.id], ["output"])


def test_a_lease_that_ended_is_noticed_by_an_upload_and_what_was_free_is_freed(history: History) -> None:
    session, workers = history.session, history.workers
    kept = session.put(torch.ones(3))
    session.sync()
    workers.expire()
    assert workers.alive.state.budget.used == 0
    handles = [session.put(torch.ones(200, 200)) for _ in range(2)]
    assert session.counters.events["recoveries"] == 1
    handles.clear()
    assert session.live_handles == 1, "the error that said so holds on to what its raisers had"
    assert session.fetch([kept.id], ["output"])[0].sum() == 3


def test_deaths_with_work_in_between_are_no_cause(history: History) -> None:
    handle = history.session.put(torch.ones(3))
    for _ in range(3 * MAX_DEATHS):
        history.kill()
        assert history.session.fetch([handle.id], ["output"])[0].sum() == 3
    assert history.session.counters.events["recoveries"] == 3 * MAX_DEATHS


def test_another_worker_is_told_of_a_program_when_a_command_needs_it(history: History) -> None:
    value = history.session.put(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    for which in (FIRST_ROW, ADD, TWO_VIEWS):
        (kept, *_) = history.call(which, *[value] * len(which.inputs))
    kept = history.call(TRANSPOSE, value)[0]
    history.session.sync()
    assert len(history.workers.alive.state.programs) == 4
    for _ in range(2):
        history.kill()
        assert history.session.fetch([kept.id], ["output"])[0].tolist() == [[1, 3], [2, 4]]
        assert len(history.workers.alive.state.programs) == 1
        (row,) = history.call(FIRST_ROW, value)
        assert history.session.fetch([row.id], ["output"])[0].tolist() == [1, 2]
        assert len(history.workers.alive.state.programs) == 2
        del row


def test_a_recovery_is_timed_part_by_part(history: History) -> None:
    recovery = history.session.recovery
    assert recovery is not None
    assert recovery.clock.last is None
    found = []
    for _ in range(2):
        history.kill()
        history.session.sync()
        assert recovery.clock.last is not None
        found.append(recovery.clock.last)
    first, second = found
    assert min(first.waited_s, first.resident_s, first.replayed_s) >= 0
    assert second.began >= first.began + first.waited_s + first.resident_s + first.replayed_s


def test_a_session_says_so_each_time(history: History, caplog: pytest.LogCaptureFixture) -> None:
    history.session.put(torch.ones(3))
    history.kill()
    with caplog.at_level(logging.WARNING):
        history.session.sync()
    assert [record.getMessage() for record in caplog.records] == [
        "a worker is gone, and the session goes on at another one: worker 1 was killed"
    ]


def test_where_no_worker_takes_its_place_the_first_error_is_raised_and_the_session_ends(history: History) -> None:
    session = history.session

    def nobody() -> Attachment:
        raise DaemonUnavailable("nobody is there")

    assert session.recovery is not None
    session.recovery._reopen = nobody  # type: ignore[method-assign]
    handle = session.put(torch.ones(3))
    history.kill()
    with pytest.raises(DaemonUnavailable, match="nobody is there"):
        session.fetch([handle.id], ["output"])
    assert not session.alive


def test_a_session_that_was_closed_stays_closed(history: History) -> None:
    handle = history.session.put(torch.ones(3))
    history.session.close()
    with pytest.raises(StaleHandleError, match="this process closed it"):
        history.session.fetch([handle.id], ["output"])


def test_an_interrupted_recovery_is_begun_again(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    session, workers = history.session, history.workers
    total = session.put(torch.zeros(3, 3))
    history.call(ADD_IN_PLACE, total, session.put(torch.ones(3, 3)))
    history.kill()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.weight_channel, "restore", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.sync()
    assert session.alive
    assert torch.equal(session.fetch([total.id], ["output"])[0], torch.ones(3, 3))
    assert workers.died == 1


def test_what_was_queued_when_the_worker_died_is_done_once(history: History) -> None:
    session = history.session
    total, one = session.put(torch.zeros(3, 3)), session.put(torch.ones(3, 3))
    for _ in range(30):
        history.call(ADD_IN_PLACE, total, one)
        if session.counters.events["recoveries"] == 0:
            history.kill()
    assert torch.equal(session.fetch([total.id], ["output"])[0], torch.full((3, 3), 30.0))


def test_another_worker_gets_nothing_that_nobody_wants(history: History) -> None:
    session, workers = history.session, history.workers
    one = session.put(torch.ones(3, 3))
    for _ in range(50):
        [result] = history.call(ADD, one, one)
    session.sync()
    del one
    history.kill()
    assert torch.equal(session.fetch([result.id], ["output"])[0], torch.full((3, 3), 2.0))
    assert workers.alive.session.calls == 1
    assert len(workers.alive.session.handles) == 1


def test_without_recovery_a_session_ends_with_its_worker() -> None:
    workers = Workers()
    session = Session(attachment_to(workers.alive), 30.0)
    session.attach(30.0)
    handle = session.put(torch.ones(3))
    session.attachment.liveness.end(SessionLost("it died"))
    with pytest.raises(StaleHandleError, match="it died"):
        session.fetch([handle.id], ["output"])
    session.close()
