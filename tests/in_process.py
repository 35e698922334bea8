"""A client session joined to a worker session in one process, without a socket: queues, and a thread for the worker.

The two share a process, so what torch keeps a process (default dtype, generator) is put back after each batch, for
which the client waits. What torch keeps a thread (grad and inference modes, dispatch modes) is the thread's own.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
import zmq

from dynamo_genie.connections import connections
from dynamo_genie.errors import DaemonUnavailable, GenieError, SessionLost
from dynamo_genie.remote_daemon.channel.error_record import error_record
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.memory.snapshot import TensorSnapshot
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.session_peers import PeerPort
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.remote_daemon.worker.state import WorkerState, open_state
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, CREDIT_EVERY
from dynamo_genie.runtime.wire.version import PROTOCOLS
from tests.wire_history import Ran, Recording

MEMORY_LIMIT = 1 << 36
POLL_S = 0.1


def welcome(bulk: str = "in-process") -> m.Welcome:
    """Return what a daemon says that lets a session in."""
    device = m.DeviceInfo("cpu", "this process", MEMORY_LIMIT, torch.__version__)
    return m.Welcome(1, PROTOCOLS[-1], b"s" * 16, b"t" * 32, "in-process", bulk, device, 1.0, 15.0)


class Receiving:
    """The receiving half of a transport: what the worker said, and waits to be read.

    Attributes:
        interrupted: Whether the connection broke.
        breaks_after: So many messages more reach the worker before it does; None: it holds.
    """

    interrupted = False
    breaks_after: int | None = None

    def __init__(self, worker: WorkerEnd, liveness: Liveness) -> None:
        self._worker = worker
        self._liveness = liveness
        self.said: queue.SimpleQueue[tuple[bytes, memoryview | None]] = queue.SimpleQueue()
        self._body: memoryview | None = None

    def say(self, message: m.WorkerToClient | m.BulkToClient, body: memoryview | None = None) -> None:
        if self.breaks_after != 0:
            self.said.put((codec.encode(message), body))

    def renew(self) -> None:
        """Let what was said be lost, as on a connection that broke."""
        self.interrupted = False
        self.breaks_after = None
        while not self.said.empty():
            self.said.get()

    def arrives(self) -> bool:
        """Whether a message reaches the worker; the last one that does is not answered any more."""
        if self.breaks_after is None:
            return True
        self.interrupted = self.breaks_after <= 1
        arrives = self.breaks_after > 0
        self.breaks_after = max(0, self.breaks_after - 1)
        return arrives

    def receive(self) -> bytes | None:
        if self._worker.dropped and self.said.empty():
            self._liveness.end(SessionLost("its lease ended"))
        try:
            message, self._body = self.said.get(timeout=0.0 if self.interrupted else POLL_S)
        except queue.Empty:
            return None
        return message

    def receive_body(self, room: memoryview | None = None, /) -> int:
        if self._body is None:
            return -1
        if room is not None:
            room[:] = self._body
        return len(self._body)


class Links:
    """The links between workers of one process.

    Attributes:
        admitted: By token, the worker that is let in where, and the number of the link there.
        sent: How many tensors went through them.
    """

    def __init__(self) -> None:
        self.admitted: dict[bytes, tuple[WorkerEnd, int]] = {}
        self.sent = 0


class WorkerEnd:
    """A worker's session and its thread; outlives the attachments to it, as a worker does.

    Attributes:
        dropped: Whether the session's lease ended before it did; the worker goes on, and knows nothing of it.
        detached: Whether a batch came that did not follow the last one.
    """

    def __init__(
        self,
        state: WorkerState | None = None,
        tell: Callable[[Ran], None] | None = None,
        epoch: int = 1,
        *,
        links: Links | None = None,
        memory_limit: int = 0,
    ) -> None:
        """Begin, with what another session of the worker made, if any; `tell` hears of every command that ran."""
        self.state = state or open_state(HostBufferStore(), Offloader(memory_limit or MEMORY_LIMIT))
        self.staging, traffic = Staging(self.state.host_budget), PeerTraffic()
        self.links = links or Links()
        self.arrivals = Arrivals(self.staging, traffic, self._wake)
        self.ways_out: dict[int, tuple[WorkerEnd, int]] = {}
        port = PeerPort(self.arrivals, traffic, {}, self._send_to_peer)
        self.session = WorkerSession(self.state, self.staging, self._download, port)
        self._stream = CommandStream(self.session)
        if tell is not None:
            Recording(self._stream, tell, "session", epoch)
        self._thread = ThreadPoolExecutor(1, "in-process-worker")
        self._dtype, self._generator = torch.get_default_dtype(), torch.default_generator.get_state()
        self._downloads = 0
        self._open = True
        self.dropped = False
        self.detached = False
        self.bulk: BulkToWorker | None = None
        self.control: ControlToWorker | None = None
        self._waiting: deque[tuple[m.Batch, int]] = deque()

    def _send_to_peer(self, link: int, outgoing: Outgoing) -> None:
        """Let a tensor arrive at once, at a worker that is there."""
        target, number = self.ways_out[link]
        if target._open and outgoing.error is not None:
            target.arrivals.fail(number, outgoing.transfer, outgoing.error)
        elif target._open:
            assert outgoing.spec is not None
            self.links.sent += 1
            target.arrivals.begin(
                number, m.TensorBegin(outgoing.transfer, outgoing.spec, outgoing.kind, bytes(outgoing.data))
            )
        outgoing.drop()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it has just been closed
            self._thread.submit(self._resume)

    def _resume(self) -> None:
        assert self.control is not None
        replies = self._as_worker(lambda: self._stream.resume(0.0))
        while self._waiting and not self._stream.unfinished:
            replies = [*replies, *self._take(*self._waiting.popleft())]
        for reply in replies:
            self.control.say(reply)

    def run(self, data: bytes) -> list[m.WorkerToClient]:
        """Run a control message on the worker's thread and return the replies once it has."""
        message = codec.client_to_worker(data)
        if self.dropped:
            return [] if isinstance(message, m.Attach) else [m.Detached()]
        if isinstance(message, m.Attach):
            return self._stream.attached(message.request_id)
        return self._thread.submit(self._take, message, len(data)).result()

    @property
    def unheard(self) -> int:
        """To how many batches the answers are remembered."""
        return len(self._stream._unheard)

    def _take(self, batch: m.Batch, nbytes: int) -> list[m.WorkerToClient]:
        if self._stream.unfinished:  # it waits for a tensor of another worker
            self._waiting.append((batch, nbytes))
            return []
        return self._as_worker(lambda: self._stream.take(batch, nbytes, 0.0))

    def _as_worker(self, work: Callable[[], list[m.WorkerToClient]]) -> list[m.WorkerToClient]:
        before = torch.get_default_dtype(), torch.default_generator.get_state()
        torch.set_default_dtype(self._dtype)
        torch.default_generator.set_state(self._generator)
        try:
            with torch.inference_mode():
                replies = work()
                self.detached |= m.Detached() in replies
                return replies
        except GenieError as error:
            return [m.Failed(0, error_record(error))]
        finally:
            self._dtype, self._generator = torch.get_default_dtype(), torch.default_generator.get_state()
            torch.set_default_dtype(before[0])
            torch.default_generator.set_state(before[1])

    def _download(self, snapshot: TensorSnapshot) -> int:
        assert self.bulk is not None
        self._downloads += 1
        for offset in range(0, snapshot.nbytes, CHUNK_NBYTES):
            chunk = snapshot.read(offset, min(offset + CHUNK_NBYTES, snapshot.nbytes))
            self.bulk.say(m.Chunk(self._downloads, offset), memoryview(chunk))
        snapshot.end()
        return self._downloads

    def drop(self) -> None:
        """End the session as a lease does that was not renewed; who holds on to it hears of that when it is silent."""
        self.dropped = True
        self.close()

    def close(self) -> None:
        """End the session and its thread; again does nothing."""
        if self._open:
            self._open = False
            self._thread.submit(self._stream.close).result()
            self._thread.shutdown()


class ControlToWorker(Receiving):
    """The control transport of one attachment; while it `loses`, what is sent does not arrive."""

    loses = False

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        if not self._liveness.alive:
            raise SessionLost("this transport is closed")
        if self.arrives() and not self.loses:
            for reply in self._worker.run(message):
                self.say(reply)
        return True


class BulkToWorker(Receiving):
    """The bulk transport of one attachment: uploads go straight into the worker's staging."""

    def __init__(self, worker: WorkerEnd, liveness: Liveness) -> None:
        super().__init__(worker, liveness)
        self._worker = worker
        self._staging = worker.staging
        self._chunks = 0

    def send(self, data: bytes, body: memoryview | None = None, /) -> bool:
        if not self.arrives():
            return True
        message = codec.to_bulk(data)
        if self._worker.dropped:
            unknown = m.BulkFailed(0, "SessionLost", "no such session")
            self.say(unknown if isinstance(message, m.Attach) else m.Detached())
            return True
        try:
            match message:
                case m.Attach():
                    self.say(m.Attached(message.request_id))
                case m.UploadBegin():
                    self._staging.begin(message.upload, message.nbytes)
                    if not message.nbytes:
                        self.say(m.UploadDone(message.upload))
                case m.UploadAbort():
                    self._staging.abort(message.upload)
                case m.Chunk() if body is not None:
                    self._take(message, body)
                case m.AdmitPeer():
                    self._worker.links.admitted[message.token] = self._worker, message.link
                    self.say(m.Attached(message.request_id))
                case m.OpenPeer():
                    self._worker.ways_out[message.link] = self._worker.links.admitted[message.token]
                case m.DismissPeer():
                    self._worker.arrivals.cut(message.link, error_record(DaemonUnavailable(message.reason)))
        except GenieError as error:
            self.say(m.BulkFailed(getattr(message, "upload", 0), error_code(error), str(error)))
        return True

    def _take(self, chunk: m.Chunk, body: memoryview) -> None:
        self._chunks += 1
        if self._chunks % CREDIT_EVERY == 0:
            self.say(m.Credit(CREDIT_EVERY))
        upload = self._staging.find(chunk.transfer)
        if upload is not None:
            room = upload.room(chunk.offset)
            room[:] = body
            if upload.arrived(room):
                self._staging.finish(chunk.transfer)
                self.say(m.UploadDone(chunk.transfer))


def attachment_to(worker: WorkerEnd) -> Attachment:
    """Return a new attachment to a worker's session, which ends with the last one."""
    liveness = Liveness()
    worker.bulk = bulk = BulkToWorker(worker, liveness)

    def release() -> None:
        if worker.bulk is bulk:
            worker.close()

    worker.control = ControlToWorker(worker, liveness)
    return Attachment(welcome(), worker.control, bulk, liveness, release)


def session_in_process(timeout_s: float = 30.0) -> tuple[Session, WorkerEnd]:
    """Return a client's session, and the worker's end of it."""
    worker = WorkerEnd()
    session = Session(attachment_to(worker), timeout_s)
    session.attach(timeout_s)
    return session, worker


class Workers:
    """Workers of one session, each of which takes the place of the one before that was killed.

    Attributes:
        alive: The present one.
        attachment: What leads to it.
        died: How many were killed.
        epoch: How many attachments there were.
        sent: How many messages workers got, chunks of uploads included.
        device_name: What the next one computes on.
        last: The last message to the present one on its control connection.
        dies_at: The message at which the present one dies, counted like that; it still runs it where it dies `after`.
    """

    def __init__(
        self, tell: Callable[[Ran], None] | None = None, *, links: Links | None = None, memory_limit: int = 0
    ) -> None:
        """Begin with one; `tell` hears of every command that any of them ran."""
        self.links = links or Links()
        self.memory_limit = memory_limit
        self.died = self.sent = self.epoch = 0
        self.dies_at = 0
        self.after = False
        self.device_name = "this process"
        self._tell = tell
        self._ends: list[tuple[WorkerEnd, Attachment]] = []
        self._reopen()

    def session(self, timeout_s: float = 30.0) -> Session:
        """Return a session that goes on when a worker is killed."""
        session = Session(self.attachment, timeout_s, reopen=self._reopen)
        session.attach(timeout_s)
        return session

    def kill(self) -> None:
        """Let the worker be gone with all that it has; who waits for an answer gets none."""
        self.died += 1
        self.alive.dropped = False
        for worker, attachment in self._ends:  # another session may have been opened that was not used
            attachment.liveness.end(SessionLost(f"worker {self.died} was killed"))
            worker.close()

    def expire(self) -> None:
        """Let the session's lease end, of which the client hears when it is told that this is no session."""
        self.alive.drop()

    def say_again(self) -> None:
        """Let the last message come to the worker again, and all that it says to it go to the client."""
        control = self.attachment.control._whole  # type: ignore[attr-defined]  # mortal
        if self.last and not self.alive.dropped and self.attachment.liveness.alive:
            for reply in self.alive.run(self.last):
                control.say(reply)

    def break_connection(self, after: int, *, bulk: bool) -> None:
        """Let the connection break after so many messages more, and what was said, or is then, be lost."""
        way = self.attachment.bulk if bulk else self.attachment.control
        whole: Receiving = way._whole  # type: ignore[attr-defined]  # mortal
        whole.renew()
        whole.breaks_after = after
        whole.interrupted = after == 0

    def _reopen(self) -> Attachment:
        self.epoch += 1
        dropped = self.epoch > 1 and self.alive.dropped
        self.alive = WorkerEnd(
            self.alive.state if dropped else None,
            self._tell,
            self.epoch,
            links=self.links,
            memory_limit=self.memory_limit,
        )
        self.last = b""
        whole = attachment_to(self.alive)
        device = msgspec.structs.replace(whole.welcome.device, name=self.device_name)
        whole = replace(whole, welcome=msgspec.structs.replace(whole.welcome, device=device))
        control, bulk = (Mortal(way, self, whole.liveness) for way in (whole.control, whole.bulk))
        self.attachment = replace(whole, control=control, bulk=bulk)
        self._ends = [each for each in self._ends if each[1].liveness.alive] + [(self.alive, self.attachment)]
        return self.attachment

    def takes(self, message: Callable[[], bool]) -> bool:
        """Let the worker take a message; it may be its last one."""
        self.sent += 1
        last = self.sent == self.dies_at
        if last and not self.after:
            self.kill()
            return True
        taken = message()
        if last:
            self.kill()
        return taken


class Mortal:
    """A transport to a worker that dies at a certain message; from then on nothing is heard of it."""

    def __init__(self, whole: Any, workers: Workers, liveness: Liveness) -> None:
        self._whole = whole
        self._workers = workers
        self._liveness = liveness

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        if not self._liveness.alive:
            return False
        if isinstance(self._whole, ControlToWorker):
            self._workers.last = message
        return self._workers.takes(lambda: self._whole.send(message, body))

    def receive(self) -> bytes | None:
        return self._whole.receive() if self._liveness.alive else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


@contextmanager
def connections_in_process(
    workers: Workers | None = None, fleet: Mapping[str, Workers] | None = None
) -> Iterator[None]:
    """Let what would start an embedded daemon open a session in this process, with the given workers if any.

    So do daemons at the endpoints of a `fleet`.
    """
    elsewhere = connections.open_session

    def open_session(context: zmq.Context[Any], endpoint: str, **settings: Any) -> Session:
        if fleet is not None and endpoint in fleet:
            return fleet[endpoint].session()
        if endpoint != "in-process":
            return elsewhere(context, endpoint, **settings)
        return session_in_process()[0] if workers is None else workers.session()

    with pytest.MonkeyPatch.context() as patch:
        connections.CONNECTIONS.shutdown()
        patch.setattr(connections.Connections, "_start_embedded", lambda self, options: "in-process")
        patch.setattr(connections, "open_session", open_session)
        yield
        connections.CONNECTIONS.shutdown()
