"""The client's end of the bulk connection: chunks out and in, a window of them at a time, without copies."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from dynamo_genie.errors import GenieError, ProtocolError, RequestTimeout, SessionLost
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.trust import Trust
from dynamo_genie.runtime.session.counters import Counters, framing
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_from_code
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, CREDIT_EVERY, UPLOAD_WINDOW

Answer = TypeVar("Answer", m.Attached, m.PeerMeasured)

T = TypeVar("T")

Progress = Callable[[int], None]
"""Told how many bytes more have been sent."""

Arrived = Callable[[int], None]
"""Told the number of each upload once all of it has arrived, in the order in which they were asked for."""


class BulkInterrupted(Exception):
    """The bulk connection broke: what was on its way there is lost, and nothing else is. `mend`, and begin again."""


class BulkConnection:
    """Uploads and downloads of one session, one caller at a time (under the session's lock).

    Attributes:
        uploads: How many there were; the next one's number is one more.
    """

    def __init__(self, attachment: Attachment, counters: Counters, timeout_s: float) -> None:
        self._counters = counters
        self._timeout_s = timeout_s
        self.uploads = 0
        self._unfinished: set[int] = set()
        self._links: dict[int, m.AdmitPeer | m.OpenPeer] = {}
        self._opening: m.Attach | None = None
        self._trust = Trust()
        self.use(attachment)

    def use(self, attachment: Attachment) -> None:
        """Go on over this attachment, with a whole window of credits."""
        self._attachment = attachment
        self._transport = attachment.bulk
        self._begin()

    def _begin(self) -> None:
        self._credits = UPLOAD_WINDOW
        self._taken = 0

    def begin_again(self, attachment: Attachment) -> None:
        """Go on over an attachment to a worker that knows of no upload."""
        self._unfinished.clear()
        self._links.clear()
        self.use(attachment)

    @property
    def endpoint(self) -> str:
        """Where the worker takes bulk data, as this client dials it."""
        return self._attachment.welcome.bulk

    def attach(self, message: m.Attach) -> None:
        """Open the session on this connection, over as many as that takes, and say again what is said of links."""
        self._opening = message
        while True:
            try:
                self._send(message)
                self._answer(message.request_id, m.Attached)
                for said in list(self._links.values()):
                    self._send(said)
                return
            except BulkInterrupted:
                self._renew()

    def _renew(self) -> None:
        self._transport.renew()
        self._begin()

    def over(self, operation: Callable[[], T]) -> T:
        """Run an operation on the bulk connection; where that breaks under it, it is begun again."""
        while True:
            try:
                return operation()
            except BulkInterrupted:
                self.mend()

    def mend(self) -> None:
        """Go on over a new connection to the same worker, after the last one broke."""
        self._counters.events["reconnects"] += 1
        self._renew()
        assert self._opening is not None
        self.attach(self._opening)

    def admit_peer(self, message: m.AdmitPeer) -> None:
        """Tell the worker who may send tensors to it, and return once it knows, be it busy or not."""
        self._ask(message, m.Attached)
        self._links[message.link] = message

    def open_peer(self, message: m.OpenPeer) -> None:
        """Tell the worker to connect to another one; it heeds this even while it computes."""
        self._links[message.link] = message
        self._say(message)

    def forget_peer(self, message: m.DismissPeer | m.ClosePeer) -> None:
        """Tell the worker that a link is over."""
        self._links.pop(message.link, None)
        self._say(message)

    def measure_peer(self, question: m.MeasurePeer) -> m.PeerMeasured:
        """Ask how fast a link is; the worker answers, or says why there is no answer, within its own limits."""
        return self._ask(question, m.PeerMeasured)

    def _say(self, message: m.ClientToBulk) -> None:
        if self._transport.interrupted:
            self.mend()
        self.over(lambda: self._send(message))

    def _ask(self, message: m.AdmitPeer | m.MeasurePeer, kind: type[Answer]) -> Answer:
        def ask() -> Answer:
            self._send(message)
            return self._answer(message.request_id, kind)

        return self.over(ask)

    def _answer(self, request_id: int, kind: type[Answer]) -> Answer:
        while True:
            reply = self._receive()
            if isinstance(reply, kind) and reply.request_id == request_id:
                return reply
            self._heed(reply)

    def cancel(self, sequence: int) -> None:
        """Tell the worker that nobody waits for the batches up to this one; it heeds this even while it computes."""
        if not self._transport.interrupted:  # else there is no hurry
            with contextlib.suppress(GenieError, BulkInterrupted):
                self._send(m.Cancel(sequence))

    def discard(self, number: int) -> None:
        """Give back the room of a finished upload that nobody will name."""
        self._say(m.UploadAbort(number))

    def upload(
        self, views: Sequence[memoryview], kind: str, arrived: Arrived, progress: Progress | None = None
    ) -> None:
        """Send each view's bytes and wait until all have arrived.

        Whoever is told of an arrival owns that upload from then on; what has not arrived is taken back on an error.

        Raises:
            QuotaExceeded: The worker has no room.
            RequestTimeout: The worker stopped taking chunks.
        """
        waiting = deque(views)

        def pass_on(number: int) -> None:
            waiting.popleft()
            arrived(number)

        while waiting:
            numbers: deque[int] = deque()
            try:
                self._upload(tuple(waiting), kind, numbers, pass_on, progress)
            except BulkInterrupted:
                self.mend()
                self._abort(numbers)  # some may be there, and nobody knows which
            except BaseException:
                self._abort(numbers)
                raise

    def _upload(
        self,
        views: Sequence[memoryview],
        kind: str,
        numbers: deque[int],
        arrived: Arrived,
        progress: Progress | None,
    ) -> None:
        for view in views:
            self.uploads += 1
            numbers.append(self.uploads)
            self._unfinished.add(self.uploads)
            self._send(m.UploadBegin(self.uploads, view.nbytes))
            self._send_chunks(self.uploads, view, kind, progress)
            self._pass_on(numbers, arrived)
        while numbers:
            self._take_report()
            self._pass_on(numbers, arrived)

    def _pass_on(self, numbers: deque[int], arrived: Arrived) -> None:
        while numbers and numbers[0] not in self._unfinished:
            arrived(numbers.popleft())

    def _abort(self, numbers: Iterable[int]) -> None:
        """Give back the room of uploads that nobody will name any more."""
        self._unfinished.clear()
        with contextlib.suppress(GenieError, BulkInterrupted):  # what stopped the upload is worth more than this
            for number in numbers:
                self._send(m.UploadAbort(number))

    def download(self, number: int, into: torch.Tensor, kind: str) -> None:
        """Receive the bytes of a download into a flat uint8 tensor.

        Raises:
            BulkInterrupted: It has to be fetched again.
            QuotaExceeded: They had to make way before they were sent.
        """
        self._unfinished.add(number)
        try:
            self._receive_download(number, into, kind)
        finally:
            self._unfinished.discard(number)

    def _receive_download(self, number: int, into: torch.Tensor, kind: str) -> None:
        room = into.numpy().data
        received = 0
        while received < len(room):
            message = self._receive()
            if not isinstance(message, m.Chunk):
                self._heed(message)
                continue
            self._count_taken()
            if message.transfer != number:
                self._transport.receive_body()
                continue
            if message.offset != received:
                raise ProtocolError(f"chunk at {message.offset} of download {number}, expected {received}")
            expected = room[received : received + CHUNK_NBYTES]
            if self._transport.receive_body(expected) != len(expected):
                raise ProtocolError(f"a chunk of download {number} has the wrong size")
            received += len(expected)
            self._counters.received[kind] += len(expected)
            self._counters.received_framing += framing(len(expected))

    def _send_chunks(self, number: int, view: memoryview, kind: str, progress: Progress | None) -> None:
        for offset in range(0, view.nbytes, CHUNK_NBYTES):
            while self._credits == 0:
                self._take_report()
            if number not in self._unfinished:
                return
            chunk = view[offset : offset + CHUNK_NBYTES]
            header = codec.encode(m.Chunk(number, offset))
            self._hand_over(header, chunk)
            self._credits -= 1
            self._counters.sent["control"] += len(header)
            self._counters.sent[kind] += len(chunk)
            self._counters.sent_framing += framing(len(header)) + framing(len(chunk))
            if progress is not None:
                progress(len(chunk))

    def _take_report(self) -> None:
        self._heed(self._receive())

    def _heed(self, message: m.BulkToClient) -> None:
        """Note what the worker says about uploads; what concerns one that was given up is of no interest."""
        if isinstance(message, m.Credit):
            self._credits += message.chunks
        elif isinstance(message, m.UploadDone):
            self._unfinished.discard(message.upload)
        elif isinstance(message, m.BulkFailed):
            if message.transfer in self._unfinished or not message.transfer or message.code == "SessionLost":
                error = error_from_code(message.code, message.message)
                if isinstance(error, SessionLost):
                    self._attachment.liveness.end(error)
                    self._attachment.liveness.check()
                raise error
        elif isinstance(message, m.Chunk):  # of a download whose reader gave up
            self._transport.receive_body()
            self._count_taken()

    def _count_taken(self) -> None:
        self._taken += 1
        if self._taken % CREDIT_EVERY == 0:
            self._send(m.Credit(CREDIT_EVERY))

    def _send(self, message: m.ClientToBulk) -> None:
        data = codec.encode(message)
        self._hand_over(data)
        self._counters.sent["control"] += len(data)
        self._counters.sent_framing += framing(len(data))

    def _hand_over(self, message: bytes, body: memoryview | None = None) -> None:
        """Give a message to the transport, which takes none while the worker takes none."""
        deadline = 0.0
        while not self._transport.send(message, body):
            self._attachment.liveness.check()
            if self._transport.interrupted:
                raise BulkInterrupted
            deadline = deadline or time.monotonic() + self._timeout_s
            self._give_up_after(deadline)

    def _receive(self) -> m.BulkToClient:
        deadline = time.monotonic() + self._timeout_s
        while True:
            self._attachment.liveness.check()
            data = self._transport.receive()
            if data is None:
                if self._transport.interrupted or self._trust.exhausted(time.monotonic()):
                    raise BulkInterrupted
                self._give_up_after(deadline)
                continue
            self._trust.heard()
            self._counters.received["control"] += len(data)
            self._counters.received_framing += framing(len(data))
            message = codec.bulk_to_client(data)
            if isinstance(message, m.Detached):
                raise BulkInterrupted
            return message

    def _give_up_after(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise RequestTimeout(
                f"the daemon moved no bulk data for {self._timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
            )
