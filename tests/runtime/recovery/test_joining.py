"""Which sessions begin again with one whose worker died, and what becomes of all when somebody cannot."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from dynamo_genie.connections.fleet import locked
from dynamo_genie.errors import DaemonUnavailable, NotRecoverable, SessionLost
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.recovery import MAX_DEATHS
from dynamo_genie.runtime.session.peer_mesh import PeerMesh
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from tests.in_process import Links, Workers

LARGE = MAX_INLINE_NBYTES // 4 + 1


class Pair:
    """Two sessions, of which the first has sent the second a tensor."""

    def __init__(self) -> None:
        links = Links()
        self.workers = Workers(links=links), Workers(links=links)
        self.first, self.second = (workers.session() for workers in self.workers)
        self.mesh = PeerMesh()
        self.sent = self.first.put(torch.arange(3.0))
        self.moved = self.move(self.sent)

    def move(self, handle: Handle) -> Handle:
        with locked((self.first, self.second)):
            return self.mesh.move(handle, self.second if handle.session is self.first else self.first)

    def kill(self, *which: int) -> None:
        for at in which:
            self.workers[at].kill()

    @property
    def recoveries(self) -> tuple[int, int]:
        return self.first.counters.events["recoveries"], self.second.counters.events["recoveries"]

    def close(self) -> None:
        for session, workers in zip((self.first, self.second), self.workers, strict=True):
            session.close()
            workers.alive.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def fetch(handle: Handle) -> list[float]:
    return handle.session.fetch([handle.id], ["output"])[0].tolist()  # type: ignore[no-any-return]


def never_again(session: Session) -> None:
    """Let no worker take the place of a session's."""

    def nobody() -> Attachment:
        raise DaemonUnavailable("nobody is there")

    assert session.recovery is not None
    session.recovery._reopen = nobody  # type: ignore[method-assign]
    session.recovery._patience_s = 0.0


def test_the_receiver_stays_where_it_is_once_it_has_what_was_sent(pair: Pair) -> None:
    assert fetch(pair.moved) == [0, 1, 2]
    pair.kill(0)
    assert fetch(pair.sent) == fetch(pair.moved) == [0, 1, 2]
    assert pair.recoveries == (1, 0)


def test_the_sender_begins_again_with_the_receiver(pair: Pair) -> None:
    fetch(pair.moved)
    pair.kill(1)
    assert fetch(pair.moved) == fetch(pair.sent) == [0, 1, 2]
    assert pair.recoveries == (1, 1)


def test_what_was_freed_is_sent_again_where_something_else_was_computed_from_it(pair: Pair) -> None:
    back = pair.move(pair.moved)
    del pair.sent, pair.moved
    pair.kill(0)
    assert fetch(back) == [0, 1, 2]
    assert pair.recoveries == (1, 1)
    assert [len(workers.alive.session.handles) for workers in pair.workers] == [1, 0]


def test_the_sender_stays_where_it_is_when_the_receiver_has_saved_what_it_was_sent(pair: Pair) -> None:
    pair.second.save()
    pair.kill(1)
    assert fetch(pair.moved) == [0, 1, 2]
    assert pair.recoveries == (0, 1)


def test_a_gradient_that_is_fetched_lets_the_others_save(pair: Pair) -> None:
    """What they have may be computed from weights that are about to change."""
    pair.first.fetch([pair.sent.id], ["gradient"])
    pair.kill(1)
    assert fetch(pair.moved) == [0, 1, 2]
    assert pair.recoveries == (0, 1)


def test_a_sender_that_would_lose_something_stays_where_it_is(pair: Pair) -> None:
    local = torch.ones(LARGE)
    kept = pair.first.put(local)
    local.zero_()
    fetch(pair.moved)
    own = pair.second.put(torch.ones(2))
    pair.kill(1)
    with pytest.raises(NotRecoverable, match="of another daemon, which does not send it again"):
        fetch(pair.moved)
    assert fetch(own) == [1, 1]
    assert fetch(kept) == [1] * LARGE
    assert pair.recoveries == (0, 1)


def test_when_both_die_each_has_what_it_had(pair: Pair) -> None:
    pair.kill(0, 1)
    assert fetch(pair.moved) == fetch(pair.sent) == [0, 1, 2]
    assert pair.recoveries == (1, 1)


@pytest.mark.parametrize("reader", [0, 1])
def test_a_sender_that_is_gone_for_good_costs_what_came_from_it(pair: Pair, reader: int) -> None:
    own = pair.second.put(torch.ones(2))
    fetch(own)
    never_again(pair.first)
    pair.kill(0, 1)
    if reader == 0:
        with pytest.raises(DaemonUnavailable, match="nobody is there"):
            fetch(pair.sent)
    with pytest.raises(NotRecoverable, match="of another daemon, which does not send it again"):
        fetch(pair.moved)
    assert fetch(own) == [1, 1]
    assert not pair.first.alive
    assert pair.second.alive


def test_what_never_left_is_sent_again_when_its_sender_dies(pair: Pair) -> None:
    """The receiver's worker waits for it, and so does this thread."""
    fetch(pair.moved)
    pair.first.attachment.control._whole.loses = True  # type: ignore[attr-defined]
    moved = pair.move(pair.sent)
    pair.second.flush()
    pair.kill(0)
    assert fetch(moved) == [0, 1, 2]
    assert pair.recoveries == (1, 1)


def test_a_receiver_that_would_lose_something_gets_an_error_for_what_never_left(pair: Pair) -> None:
    local = torch.ones(LARGE)
    kept = pair.second.put(local)
    local.zero_()
    fetch(pair.moved)
    pair.first.attachment.control._whole.loses = True  # type: ignore[attr-defined]
    moved = pair.move(pair.sent)
    pair.second.flush()
    pair.kill(0)
    with pytest.raises(DaemonUnavailable, match="has ended"):
        fetch(moved)
    assert fetch(kept) == [1] * LARGE
    assert fetch(pair.sent) == [0, 1, 2]


def test_workers_that_die_of_the_same_end_their_session_and_cost_the_others_what_came_from_it(pair: Pair) -> None:
    class Mayflies(Workers):
        def _reopen(self) -> Attachment:
            self.dies_at = self.sent + 3 if self.died else 0
            return super()._reopen()

    workers = Mayflies(links=pair.workers[0].links)
    session = workers.session()
    with locked((session, pair.second)):
        moved, sent = pair.mesh.move(session.put(torch.ones(2)), pair.second), pair.second.put(torch.ones(3))
        back = pair.mesh.move(sent, session)
    assert (fetch(moved), fetch(back)) == ([1, 1], [1, 1, 1])
    workers.kill()
    with pytest.raises(SessionLost, match=f"{MAX_DEATHS} workers ended one after the other"):
        fetch(back)
    assert not session.alive
    with pytest.raises(NotRecoverable, match="of another daemon, which does not send it again"):
        fetch(moved)
    assert fetch(sent) == [1, 1, 1]
    session.close()
    workers.alive.close()


def test_threads_that_find_out_at_once_lend_each_other_what_they_hold(pair: Pair) -> None:
    back = pair.move(pair.moved)
    assert fetch(back) == [0, 1, 2]
    together = Barrier(2)

    def read(handle: Handle) -> list[float]:
        with handle.session.lock:  # each holds one, and needs both
            together.wait()
            return fetch(handle)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(8):
            pair.kill(0, 1)
            assert list(pool.map(read, (back, pair.moved), timeout=30)) == [[0, 1, 2]] * 2


def test_a_thread_that_uses_a_session_is_waited_for(pair: Pair) -> None:
    fetch(pair.moved)
    together = Barrier(2)

    def use() -> list[float]:
        with pair.first.lock:
            together.wait()
            pair.kill(1)
            together.wait()
            return [value for _ in range(20) for value in fetch(pair.sent)]

    with ThreadPoolExecutor(1) as pool:
        using = pool.submit(use)
        together.wait()
        together.wait()
        assert fetch(pair.moved) == [0, 1, 2]
        assert using.result(30) == [0, 1, 2] * 20
    assert pair.recoveries == (1, 1)
