"""Chunks of uploads: the raw frame behind a `Chunk` is received straight into its place."""

from __future__ import annotations

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.channel.frame_reader import FrameReader
from dynamo_genie.remote_daemon.transfer.staging import Staging, UploadKey


def receive_chunk(reader: FrameReader, staging: Staging, key: UploadKey, offset: int, *, digest: bool) -> bool:
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
    if not reader.more:
        raise ProtocolError("a chunk came without its data")
    room = upload.room(offset)
    received = reader.receive_into(room)
    if received != len(room):
        staging.abort(key)
        raise ProtocolError(f"a chunk of {received} bytes came where {len(room)} were due")
    return upload.arrived(room) if digest else upload.advance(len(room))
