"""One connection to a daemon's public endpoint: ask, wait a bounded time, get the answer or the reason why not."""

from __future__ import annotations

import time
from typing import TypeVar

import zmq

from dynamo_genie.errors import DaemonUnavailable, ProtocolError
from dynamo_genie.runtime.connect.dealer import Dealer, connect_dealer
from dynamo_genie.runtime.connect.handshake import HandshakeWatch
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_from_code
from dynamo_genie.runtime.wire.key_file import ClientKeys
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES

LAST_WORDS_MS = 200

REPEAT_S = 2.0
"""After so long a request is sent again."""

R = TypeVar("R", m.Welcome, m.StatusReply)


class SupervisorConnection:
    """Owns a context and a socket. Belongs to one thread at a time."""

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self.endpoint = endpoint
        self._keys = keys
        self._context: zmq.Context[Dealer] = zmq.Context()
        self._watch: HandshakeWatch | None = None
        self._connect()

    def _connect(self) -> None:
        endpoint, keys = self.endpoint, self._keys
        try:
            self.socket = connect_dealer(
                self._context, endpoint, keys=keys, max_frame_nbytes=MAX_CONTROL_NBYTES, before_connect=self._attach
            )
        except BaseException:
            self._close_watch()
            self._context.destroy(linger=0)
            raise

    def _attach(self, socket: Dealer) -> None:
        self._watch = HandshakeWatch(socket, self.endpoint, has_keys=self._keys is not None)

    def ask(self, message: m.Hello | m.OpenDevice | m.StatusRequest, kind: type[R], timeout_s: float) -> R:
        """Send a request and return its answer of type `kind`, or raise what the daemon refused it with.

        It is sent again now and then: a connection may be cut while it is on its way, and a daemon answers it once.
        """
        deadline = time.monotonic() + timeout_s
        repeat_at = 0.0
        assert self._watch is not None
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._watch.monitor, zmq.POLLIN)
        while (now := time.monotonic()) < deadline:
            if now >= repeat_at:
                repeat_at = now + REPEAT_S
                self.send(message)
            ready = dict(poller.poll(int((min(deadline, repeat_at) - now) * 1000) + 1))
            if self.socket in ready:
                answer = self._matching(self.receive(), message.request_id, kind)
                if answer is not None:
                    self._close_watch()
                    return answer
            self._watch.check()
        raise self._nobody_answered(timeout_s)

    def _matching(self, reply: m.SupervisorToClient, request_id: int, kind: type[R]) -> R | None:
        if isinstance(reply, m.Refused) and reply.request_id in (request_id, 0):
            raise error_from_code(reply.code, f"the daemon at {self.endpoint} refused: {reply.message}")
        return reply if isinstance(reply, kind) and reply.request_id == request_id else None

    def _nobody_answered(self, timeout_s: float) -> DaemonUnavailable:
        limit = "(connect_timeout_s, GENIE_CONNECT_TIMEOUT_S)"
        if self._watch is not None and self._watch.succeeded:
            return DaemonUnavailable(
                f"the daemon at {self.endpoint} did not answer within {timeout_s:g} s; "
                f"is its worker still starting? {limit}"
            )
        return DaemonUnavailable(
            f'no daemon answered at {self.endpoint} within {timeout_s:g} s; is "genie daemon" running there? {limit}'
        )

    def renew(self) -> None:
        """Connect anew, with a socket of its own; what was on its way is dropped."""
        self._close_watch()
        self.socket.close(linger=0)
        self._connect()
        self._close_watch()

    def send(self, message: m.ClientToSupervisor) -> None:
        """Send one message, or queue it while the connection is down."""
        self.socket.send(codec.encode(message))

    def receive(self) -> m.SupervisorToClient:
        """Return the next message; poll `socket` first, this waits at most the socket's time-out."""
        frames = self.socket.recv_multipart()
        if len(frames) != 1:
            raise ProtocolError(f"{self.endpoint} sent a message of {len(frames)} frames where one is expected")
        return codec.supervisor_to_client(frames[0])

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def close(self, linger_ms: int = LAST_WORDS_MS) -> None:
        """Close the socket; what was sent last may still leave for `linger_ms`."""
        self._close_watch()
        self._context.destroy(linger=linger_ms)
