"""Hashing the contents of many tensors at once, on a few threads. What a digest covers is said in `wire.content`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from dynamo_genie.runtime.wire.content import chunk_digests, chunks_of, content_digest
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import dense_for_wire, spec_of, tensor_bytes

_JOB_NBYTES = 16 * CHUNK_NBYTES  # large enough to forget the cost of a job, small enough to share one big embedding
_INLINE_NBYTES = 4 * CHUNK_NBYTES  # below this, all of it is hashed before a thread would have started


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """The identity of a tensor's content, and the digests of its chunks (16 bytes each, in order)."""

    digest: bytes
    chunks: bytes

    @classmethod
    def of_chunks(cls, spec: TensorSpec, chunks: bytes) -> TensorDigest:
        return cls(content_digest(spec, chunks), chunks)


class TensorHasher:
    """A few threads that hash; xxhash lets go of the interpreter lock, so they do run side by side."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None

    def digest_parts(self, parts: Sequence[memoryview]) -> list[bytes]:
        """Return, for each part of a tensor that starts on a chunk, the digests of its chunks."""
        if sum(part.nbytes for part in parts) <= _INLINE_NBYTES:
            return [chunk_digests(part) for part in parts]
        pool = self._started()
        jobs = [[pool.submit(chunk_digests, job) for job in chunks_of(part, _JOB_NBYTES)] for part in parts]
        return [b"".join(job.result() for job in each) for each in jobs]

    def digest_views(self, specs: Sequence[TensorSpec], views: Sequence[memoryview]) -> list[TensorDigest]:
        """Return the digest of each tensor, given its spec and its memory."""
        digests = self.digest_parts(views)
        return [TensorDigest.of_chunks(spec, chunks) for spec, chunks in zip(specs, digests, strict=True)]

    def digest_tensors(self, tensors: Sequence[torch.Tensor]) -> list[TensorDigest]:
        """Return the digest of each tensor as it would travel."""
        dense = [dense_for_wire(tensor) for tensor in tensors]
        return self.digest_views([spec_of(tensor) for tensor in dense], [tensor_bytes(tensor) for tensor in dense])

    def close(self) -> None:
        """End the threads; closing twice is fine, and hashing again starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="genie-hash")
        return self._pool
