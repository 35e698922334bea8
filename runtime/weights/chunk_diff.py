"""Which chunks of a tensor differ from what the daemon has, looking only where it may have been written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynamo_genie.runtime.wire.content import DIGEST_NBYTES, chunk_digests
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.writes.watch import ByteRange, merge_ranges


@dataclass(frozen=True, slots=True)
class Diff:
    """The digests of all chunks as they are now, and the bytes that must be sent again, with their offsets."""

    chunks: bytes
    changed: list[tuple[int, memoryview]]


@dataclass(frozen=True, slots=True)
class Recheck:
    """What of a tensor is to be compared with what the daemon has.

    Attributes:
        view: The tensor's memory.
        known: The digests of the daemon's chunks; None: unknown.
        runs: The runs of chunks to compare.
        foreign: Others may be writing: what goes out is copied first, so that its digest is that of the bytes sent.
    """

    view: memoryview
    known: bytes | None
    runs: list[ByteRange]
    foreign: bool

    @classmethod
    def of(
        cls, view: memoryview, known: bytes | None, written: Sequence[ByteRange] | None, *, foreign: bool = False
    ) -> Recheck:
        """Compare the chunks that were written; all of them for None, or when nothing is known."""
        if written is None or known is None:
            written = [(0, view.nbytes)]
        return cls(view, known, _whole_chunks(written, view.nbytes), foreign)

    def parts(self) -> list[memoryview]:
        """Return the memory of each run, to be hashed."""
        return [self.view[low:high] for low, high in self.runs]

    def compare(self, fresh: Sequence[bytes]) -> Diff:
        """Compare the digests of the runs' chunks with the known ones."""
        count = -(-self.view.nbytes // CHUNK_NBYTES)
        chunks = bytearray(self.known if self.known is not None else bytes(count * DIGEST_NBYTES))
        changed: list[ByteRange] = []
        for (low, high), digests in zip(self.runs, fresh, strict=True):
            for offset, digest in zip(range(low, high, CHUNK_NBYTES), _each(digests), strict=True):
                place = slice(offset // CHUNK_NBYTES * DIGEST_NBYTES, (offset // CHUNK_NBYTES + 1) * DIGEST_NBYTES)
                if self.known is None or chunks[place] != digest:
                    chunks[place] = digest
                    changed.append((offset, min(offset + CHUNK_NBYTES, high)))
        parts = [(low, self.view[low:high]) for low, high in merge_ranges(changed)]
        if self.foreign:
            parts = [(low, memoryview(part.tobytes())) for low, part in parts]
            for low, part in parts:
                digests = chunk_digests(part)
                start = low // CHUNK_NBYTES * DIGEST_NBYTES
                chunks[start : start + len(digests)] = digests
        return Diff(bytes(chunks), parts)


def _each(digests: bytes) -> Iterator[bytes]:
    return (digests[start : start + DIGEST_NBYTES] for start in range(0, len(digests), DIGEST_NBYTES))


def _whole_chunks(written: Sequence[ByteRange], nbytes: int) -> list[ByteRange]:
    grown = [(low - low % CHUNK_NBYTES, min(-(-high // CHUNK_NBYTES) * CHUNK_NBYTES, nbytes)) for low, high in written]
    return merge_ranges([(low, high) for low, high in grown if low < high])
