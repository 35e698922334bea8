"""The contents of tensors in files: read into host memory, cast where that is wished, and hashed on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import torch

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.files import FileIdentity, StoredFile, opened, read_exactly
from dynamo_genie.remote_daemon.model_files.header import StoredTensor
from dynamo_genie.runtime.wire.content import chunk_digest, chunks_of, content_digest
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.wire.tensor import Dtype, TensorSpec
from dynamo_genie.tensors import TORCH_DTYPES

Allocate: TypeAlias = Callable[[int], torch.Tensor]
"""Returns host memory, flat, uint8, for so many bytes."""


def spec_of_stored(tensor: StoredTensor, dtype: str = "") -> TensorSpec:
    """Describe a tensor as it will be: contiguous, and of another dtype where both are floating point ones."""
    return msgspec.structs.replace(tensor.spec, dtype=_cast_to(tensor, dtype))


def _cast_to(tensor: StoredTensor, dtype: str) -> Dtype:
    if not dtype or not TORCH_DTYPES[tensor.dtype].is_floating_point:
        return tensor.dtype
    if not TORCH_DTYPES[dtype].is_floating_point:
        raise ModelFileError(f"{tensor.name!r:.200} is of {tensor.dtype}; weights are not loaded as {dtype}")
    return dtype  # type: ignore[return-value]  # the table has no other names


def read_content(
    file: StoredFile, tensor: StoredTensor, spec: TensorSpec, allocate: Allocate
) -> tuple[bytes, torch.Tensor]:
    """Read a tensor of a file as `spec` says; return the digest of the content, and its bytes (flat, uint8).

    Raises:
        ModelFileError: The file is not the one whose header was read, or became another meanwhile.
    """
    source, target = TORCH_DTYPES[tensor.dtype], TORCH_DTYPES[spec.dtype]
    numel = tensor.nbytes // source.itemsize
    memory = allocate(numel * target.itemsize)
    with opened(file.path) as descriptor:
        _require_same(file, descriptor)
        if source == target:
            digests = _read(descriptor, tensor.start, memory)
        else:
            digests = _read_and_cast(descriptor, tensor.start, source, memory, target)
        _require_same(file, descriptor)
    return content_digest(spec, digests), memory


def _require_same(file: StoredFile, descriptor: int) -> None:
    if FileIdentity.of(descriptor) != file.identity:
        raise ModelFileError(f"{file.path.name} was changed while the model was loaded; load it again")


def _read(descriptor: int, start: int, memory: torch.Tensor) -> bytes:
    """Fill memory from a place in a file; return the digests of its chunks."""
    digests, offset = bytearray(), start
    for chunk in chunks_of(memory.numpy().data):
        read_exactly(descriptor, chunk, offset)
        offset += chunk.nbytes
        digests += chunk_digest(chunk)
    return bytes(digests)


def _read_and_cast(
    descriptor: int, start: int, source: torch.dtype, memory: torch.Tensor, target: torch.dtype
) -> bytes:
    """Fill memory with what a place in a file has, in another dtype; return the digests of its chunks."""
    digests, offset = bytearray(), start
    for begin in range(0, memory.numel(), CHUNK_NBYTES):  # a chunk holds whole elements of every dtype
        into = memory[begin : begin + CHUNK_NBYTES]
        piece = torch.empty(into.numel() // target.itemsize * source.itemsize, dtype=torch.uint8)
        read_exactly(descriptor, piece.numpy().data, offset)
        offset += piece.numel()
        into.view(target).copy_(piece.view(source))
        digests += chunk_digest(into.numpy().data)
    return bytes(digests)
