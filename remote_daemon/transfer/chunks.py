"""Chunks of uploads: the raw frame behind a `Chunk` is received straight into its place."""

from __future__ import annotations

import zmq

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.transfer.staging import Staging, UploadKey


def receive_chunk(socket: zmq.Socket[bytes], staging: Staging, key: UploadKey, offset: int, *, digest: bool) -> bool:
    """Receive the next frame into an open upload; return whether that completes it.

    What belongs to an upload that was refused or given up is left to be dropped.

    Args:
        digest: Whether somebody will ask for the content's digest.

    Raises:
        ProtocolError: The chunk has no data, not its size, or not its turn; its upload ends.
    """
    upload = staging.find(key)
    if upload is None:
        return False
    if not socket.get(zmq.RCVMORE):
        raise ProtocolError("a chunk came without its data")
    room = upload.room(offset)
    received = socket.recv_into(room, flags=zmq.NOBLOCK)
    if received != len(room):
        staging.abort(key)
        raise ProtocolError(f"a chunk of {received} bytes came where {len(room)} were due")
    return upload.arrived(room) if digest else upload.advance(len(room))
