"""What identifies the content of a tensor: a digest of its bytes, dtype, shape and strides. No torch, no sockets.

A tensor's memory is cut into chunks of `CHUNK_NBYTES`; each has a digest, and the digest of the tensor covers all of
them, so a change of one element costs one chunk to find and to send. xxh3-128 tells contents apart by accident, not by
malice: digests are shared inside one tenant only.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import xxhash

from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.wire.tensor import TensorSpec

DIGEST_NBYTES = 16
"""Length of every digest: 128 bits."""


def chunk_digest(view: memoryview | bytes) -> bytes:
    """Return the digest of one chunk."""
    return xxhash.xxh3_128_digest(view)


def chunks_of(view: memoryview, nbytes: int = CHUNK_NBYTES) -> Iterator[memoryview]:
    """Cut a tensor's memory into the chunks that are hashed and sent, or larger ones; the last one may be shorter."""
    for start in range(0, view.nbytes, nbytes):
        yield view[start : start + nbytes]


def chunk_digests(view: memoryview) -> bytes:
    """Return the digests of all chunks, one after another (`DIGEST_NBYTES` each)."""
    return b"".join(map(chunk_digest, chunks_of(view)))


def content_digest(spec: TensorSpec, digests: bytes) -> bytes:
    """Return the identity of a tensor, given the digests of its chunks."""
    hasher = xxhash.xxh3_128(msgspec.msgpack.encode(spec))  # msgpack arrays say their length: no two specs run together
    hasher.update(digests)
    return hasher.digest()
