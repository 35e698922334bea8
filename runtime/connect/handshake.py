"""Tells from a socket's monitor why no connection comes about: nobody there, or somebody who refuses the key."""

from __future__ import annotations

import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from dynamo_genie.errors import AuthenticationError
from dynamo_genie.runtime.wire.limits import HANDSHAKE_MS

WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
PATIENCE = 3
"""A cut-off without a reason is final when it has happened so often: a daemon that restarts does it once."""

SILENT_S = 0.9 * HANDSHAKE_MS / 1000
"""Who says nothing for so long has not cut us off: this side gave up, for that one stands still."""


class HandshakeWatch:
    """Watches one socket; attach it before the socket connects. `succeeded` tells if a peer was ever reached."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, *, has_keys: bool) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._has_keys = has_keys
        self._cut_off = 0
        self._connected = 0.0
        self.succeeded = False
        self.monitor: zmq.Socket[bytes] = socket.get_monitor_socket(WATCHED)

    def check(self) -> None:
        """Take in what has happened; raise `AuthenticationError` when the other side will never let us in."""
        while self.monitor.poll(0):
            self._take(zmq.Event(parse_monitor_message(self.monitor.recv_multipart())["event"]))

    def _take(self, event: zmq.Event) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._connected = time.monotonic()
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.succeeded = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            who = f"the daemon at {self._endpoint}"
            raise AuthenticationError(f"{who} does not admit this key (key_file, GENIE_KEY_FILE)")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            raise AuthenticationError(f"{self._endpoint} refused the handshake: {self._likely_cause()}")
        elif time.monotonic() - self._connected < SILENT_S:
            self._cut_off += 1
            if self._cut_off >= PATIENCE:
                raise AuthenticationError(f"{self._endpoint} cut off every handshake: {self._likely_cause()}")

    def _likely_cause(self) -> str:
        if self._has_keys:
            return "the daemon has other keys than the key file says, or none, or is no genie daemon (GENIE_KEY_FILE)"
        return "it wants a key (genie keygen; key_file, GENIE_KEY_FILE), or is no genie daemon"

    def close(self) -> None:
        """Stop watching."""
        self._socket.disable_monitor()
        self.monitor.close(linger=0)
