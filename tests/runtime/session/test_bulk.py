"""Uploads over a bulk connection: who is told what arrived, when, and what is taken back when something fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.attachment.trust import Trust
from dynamo_genie.runtime.connect.dealer import Dealer, DealerTransport, connect_dealer
from dynamo_genie.runtime.session.bulk import BulkConnection
from dynamo_genie.runtime.session.counters import Counters
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from tests.in_process import welcome


class Worker:
    """The other end of a bulk socket, in the test's hands: takes frames when it is told to, and says what it likes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.rcvtimeo = 5_000
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._client = b""

    def take(self) -> m.ClientToBulk:
        self._client, data, *_ = self._socket.recv_multipart()
        return codec.to_bulk(data)  # type: ignore[return-value]

    def say(self, *messages: m.BulkToClient) -> None:
        for message in messages:
            self._socket.send_multipart([self._client, codec.encode(message)])

    def close(self) -> None:
        self._socket.close(linger=0)


@pytest.fixture
def ends() -> Iterator[tuple[BulkConnection, Worker]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    worker = Worker(context)
    liveness = Liveness()

    def dealer(before_connect: Callable[[Dealer], None]) -> Dealer:
        return connect_dealer(
            context, worker.endpoint, keys=None, max_frame_nbytes=1 << 21, timeout_ms=100, before_connect=before_connect
        )

    transport = DealerTransport(dealer, liveness)
    attachment = Attachment(welcome(bulk=worker.endpoint), transport, transport, liveness, transport.close)
    yield BulkConnection(attachment, Counters(), 5.0), worker
    transport.close()
    worker.close()
    context.term()


def views(*chunks: int) -> list[memoryview]:
    return [memoryview(bytes(n * CHUNK_NBYTES)) for n in chunks]


def begin(bulk: BulkConnection, worker: Worker, chunks: int = 3) -> None:
    """Let the worker know the client, and use up its window but for some chunks."""
    bulk.discard(999)
    assert worker.take() == m.UploadAbort(999)
    bulk._credits = chunks


def test_an_upload_is_passed_on_while_later_ones_are_still_to_be_sent(ends: tuple[BulkConnection, Worker]) -> None:
    bulk, worker = ends
    begin(bulk, worker)
    seen: list[tuple[int, int]] = []
    sent: list[int] = []
    worker.say(m.UploadDone(1), m.Credit(10))  # read when the window is used up: in upload 2
    worker.say(m.UploadDone(2), m.UploadDone(3))
    bulk.upload(views(2, 2, 1), "weight", lambda number: seen.append((number, len(sent))), sent.append)
    assert [number for number, _ in seen] == [1, 2, 3]
    assert seen[0][1] < 5, "the first was passed on before the last was sent"


def test_uploads_are_passed_on_in_order_whatever_the_order_of_the_news(ends: tuple[BulkConnection, Worker]) -> None:
    bulk, worker = ends
    begin(bulk, worker)
    seen: list[int] = []
    worker.say(m.UploadDone(3), m.UploadDone(2), m.UploadDone(1))
    bulk.upload(views(1, 1, 1), "weight", seen.append)
    assert seen == [1, 2, 3]


def test_what_was_passed_on_is_not_taken_back_when_a_later_one_is_refused(ends: tuple[BulkConnection, Worker]) -> None:
    bulk, worker = ends
    begin(bulk, worker, chunks=1)
    seen: list[int] = []
    worker.say(m.UploadDone(1), m.Credit(1), m.BulkFailed(3, "QuotaExceeded", "no room"))
    with pytest.raises(QuotaExceeded, match="no room"):
        bulk.upload(views(1, 1, 1), "weight", seen.append)
    assert seen == [1]
    assert aborted(worker) == [2, 3]


def aborted(worker: Worker) -> Sequence[int]:
    found: list[int] = []
    while len(found) < 2:
        message = worker.take()
        if isinstance(message, m.UploadAbort):
            found.append(message.upload)
    return found


def test_a_connection_that_is_silent_for_too_long_is_replaced_and_the_upload_begun_again(
    ends: tuple[BulkConnection, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk, worker = ends
    monkeypatch.setattr(bulk, "_trust", Trust(first_s=0.2))
    opening, arrived = m.Attach(1, b"s" * 16, b"t" * 32), list[int]()
    with ThreadPoolExecutor(1) as client:
        attached = client.submit(bulk.attach, opening)
        assert worker.take() == opening
        worker.say(m.Attached(1))
        attached.result(5.0)
        uploaded = client.submit(bulk.upload, views(1), "weight", arrived.append)
        assert worker.take() == m.UploadBegin(1, CHUNK_NBYTES)
        assert worker.take() == m.Chunk(1, 0)
        assert worker.take() == opening  # nothing was said
        worker.say(m.Attached(1))
        assert worker.take() == m.UploadAbort(1)
        assert worker.take() == m.UploadBegin(2, CHUNK_NBYTES)
        assert worker.take() == m.Chunk(2, 0)
        worker.say(m.UploadDone(2))
        uploaded.result(5.0)
    assert arrived == [2]
