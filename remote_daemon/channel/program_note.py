"""A note of the program that a worker runs, in memory that outlives it: its supervisor reads there what killed it."""

from __future__ import annotations

import mmap
import os

NBYTES = mmap.PAGESIZE
DIGEST_NBYTES = 32
_NOBODY = bytes(DIGEST_NBYTES)


class ProgramNote:
    """One page: whether a program runs, and the digest of that or of the last one. Writing costs far below 1 us."""

    def __init__(self, descriptor: int = -1) -> None:
        """Share the page behind `descriptor`; without one nobody else sees the note."""
        self._page = mmap.mmap(descriptor, NBYTES)

    def begin(self, digest: bytes) -> None:
        """Note that a program runs from now on."""
        page = self._page
        page[1 : 1 + DIGEST_NBYTES] = digest
        page[0] = 1

    def end(self) -> None:
        """Note that it ran to its end."""
        self._page[0] = 0

    @property
    def running(self) -> bool:
        """Whether a program runs, or ran when its process died."""
        return self._page[0] == 1

    @property
    def last(self) -> bytes:
        """The digest of the program that runs or ran last; empty where there was none."""
        digest = self._page[1 : 1 + DIGEST_NBYTES]
        return b"" if digest == _NOBODY else digest

    def close(self) -> None:
        """Give the page back."""
        self._page.close()


def make_page() -> int:
    """Return the descriptor of a page that processes can share."""
    descriptor = os.memfd_create("genie-program")
    os.ftruncate(descriptor, NBYTES)
    return descriptor
