"""One weight in a file: how it is described, and its bytes. Whoever reads one proves that it is what its name says.

A file is the mark, the length of the description (four bytes, little-endian), the description (a `TensorSpec` in
msgpack), zeros up to `HEADER_NBYTES`, and the elements in memory order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire.content import chunk_digest, chunks_of, content_digest
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import require_dense

MARK = b"GENIEW1\n"
HEADER_NBYTES = 4096
"""The elements begin at a page."""

Allocate: TypeAlias = Callable[[int], torch.Tensor]
"""Returns host memory, flat, uint8, for so many bytes."""


class BadEntry(Exception):
    """A file does not hold what its name says: it was damaged, or somebody else wrote it."""


def write_entry(descriptor: int, spec: TensorSpec, memory: torch.Tensor) -> None:
    """Write a weight to an empty file; `memory` is its bytes, flat, uint8, on the host."""
    described = msgspec.msgpack.encode(spec)
    header = MARK + len(described).to_bytes(4, "little") + described
    with open(descriptor, "wb", closefd=False) as file:
        file.write(header.ljust(HEADER_NBYTES, b"\0"))
        file.writelines(chunks_of(memory.numpy().data))


def read_spec(descriptor: int) -> TensorSpec:
    """Return how a weight is described, if the file has the size for it.

    Raises:
        BadEntry: It is no file of a weight.
    """
    header = os.pread(descriptor, HEADER_NBYTES, 0)
    start = len(MARK) + 4
    length = int.from_bytes(header[len(MARK) : start], "little")
    if len(header) < HEADER_NBYTES or not header.startswith(MARK) or length > HEADER_NBYTES - start:
        raise BadEntry("it does not begin as a weight does")
    try:
        spec = msgspec.msgpack.decode(header[start : start + length], type=TensorSpec)
    except msgspec.DecodeError as error:
        raise BadEntry(f"its description cannot be read: {error}") from None
    try:
        require_dense(spec, os.fstat(descriptor).st_size - HEADER_NBYTES)
    except ProtocolError as error:
        raise BadEntry(str(error)) from None
    return spec


def read_elements(descriptor: int, spec: TensorSpec, digest: bytes, allocate: Allocate) -> torch.Tensor:
    """Return a weight's bytes, flat, uint8, proved to be those that the digest names.

    Raises:
        BadEntry: They are others.
    """
    nbytes = os.fstat(descriptor).st_size - HEADER_NBYTES
    memory = allocate(nbytes)
    digests, offset = bytearray(), HEADER_NBYTES
    for chunk in chunks_of(memory.numpy().data):
        if os.preadv(descriptor, [chunk], offset) != len(chunk):
            raise BadEntry("it ends too soon")
        offset += len(chunk)
        digests += chunk_digest(chunk)
    if content_digest(spec, bytes(digests)) != digest:
        raise BadEntry("its bytes are not those that its name says")
    return memory
