"""The authenticator: decides which CURVE keys may connect, by answering libzmq's questions (ZAP, RFC 27).

It runs in a thread of its own. A socket with `ZAP_DOMAIN` gets nobody in while no authenticator runs in its context.
The key that was proven becomes the `User-Id` of every message of that connection: that, never the routing id, is the
tenant.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection

import zmq
from zmq.utils import z85

from dynamo_genie.remote_daemon.channel.refusals import RefusalLog

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"genie"
BULK_ZAP_DOMAIN = b"genie-bulk"
"""The domain of sockets that other workers may reach too; what they prove lets them into no other."""

ZAP_VERSION = b"1.0"

AdmittedKeys = Callable[[], Collection[str]]
"""Returns the public keys (Z85) that may connect now; asked at every handshake, and so looks into no files."""


def nobody() -> Collection[str]:
    """Return no key."""
    return ()


def verdict(request: list[bytes], admitted: AdmittedKeys, peers: AdmittedKeys = nobody) -> tuple[bytes, bytes, bytes]:
    """Answer one ZAP request with status code, status text and user id. `peers` are other workers, for bulk only."""
    if len(request) != 7 or request[0] != ZAP_VERSION:
        return b"500", b"malformed request", b""
    domain, mechanism, key = request[2], request[5], request[6]
    if domain not in (ZAP_DOMAIN, BULK_ZAP_DOMAIN) or mechanism != b"CURVE" or len(key) != 32:
        return b"400", b"only CURVE keys are admitted", b""
    public = z85.encode(key)
    known = public.decode()
    if known in admitted() or (domain == BULK_ZAP_DOMAIN and known in peers()):
        return b"200", b"OK", public
    return b"400", b"this key is not admitted", b""


class Authenticator:
    """Answers ZAP requests of one context until it is closed; `alive` turns false if it dies."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], admitted: AdmittedKeys, peers: AdmittedKeys = nobody
    ) -> None:
        self._admitted = admitted
        self._peers = peers
        self._refusals = RefusalLog()
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="genie-zap", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether handshakes are still being judged; whoever serves must stop when they are not."""
        return self._thread.is_alive()

    def _serve(self) -> None:
        try:
            poller = zmq.Poller()
            poller.register(self._socket, zmq.POLLIN)
            poller.register(self._stop_read, zmq.POLLIN)
            while self._stop_read not in dict(poller.poll()):
                self._answer(self._socket.recv_multipart())
        finally:
            self._socket.close(linger=0)  # from here on handshakes fail: see ZAP_ENFORCE_DOMAIN

    def _answer(self, request: list[bytes]) -> None:
        try:
            code, text, user = verdict(request, self._admitted, self._peers)
        except OSError as error:  # whatever it is, others are to be judged after it; the client tries again
            code, text, user = b"300", f"keys cannot be looked up: {error.strerror}".encode(), b""
        if code != b"200":
            address = b"".join(request[3:4]).decode(errors="replace")
            self._refusals.note(address, text.decode(), _key_of(request))
        self._socket.send_multipart([ZAP_VERSION, request[1] if len(request) > 1 else b"", code, text, user, b""])

    def close(self) -> None:
        """Stop answering; handshakes fail from now on."""
        if self._stop_write < 0:
            return
        os.write(self._stop_write, b"x")
        self._thread.join(5)
        os.close(self._stop_read)
        os.close(self._stop_write)
        self._stop_write = -1


def _key_of(request: list[bytes]) -> str:
    """Return the start of the key that a request shows, for people."""
    key = request[6] if len(request) == 7 else b""
    return f" ({z85.encode(key).decode()[:8]}...)" if len(key) == 32 else ""


def verified_user(frame: zmq.Frame) -> str:
    """Return the proven public key (Z85) behind a received frame; empty where the socket has no keys."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
