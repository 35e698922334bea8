"""What waits for a turn waits in order, within bounds, and keeps no memory that it shares with others."""

from __future__ import annotations

import pytest
import zmq

from dynamo_genie.remote_daemon.channel import inbox
from dynamo_genie.remote_daemon.channel.inbox import READ_AHEAD_NBYTES, Inbox


def test_messages_come_out_in_order() -> None:
    box = Inbox()
    sent = [b"a", b"b" * READ_AHEAD_NBYTES, b""]
    assert all(box.add(zmq.Frame(data)) for data in sent)
    assert [bytes(box.take()) for _ in sent] == sent
    assert not box.waiting


def test_a_short_message_is_copied_and_a_long_one_is_not() -> None:
    box = Inbox()
    for nbytes in (READ_AHEAD_NBYTES - 1, READ_AHEAD_NBYTES):
        box.add(zmq.Frame(bytes(nbytes)))
    assert [type(data) for data in box.waiting] == [bytes, memoryview]


@pytest.mark.parametrize("limit", ["MAX_WAITING_NBYTES", "MAX_WAITING_BATCHES"])
def test_no_more_wait_than_may(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, limit, 2 if limit.endswith("BATCHES") else 100)
    box, frame = Inbox(), zmq.Frame(bytes(50))
    assert [box.add(frame) for _ in range(3)] == [True, True, False]
    box.take()
    assert box.add(frame)
    box.clear()
    assert [box.add(frame) for _ in range(3)] == [True, True, False]
