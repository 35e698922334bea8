"""A wake-up for a thread that polls sockets, from another thread."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """A pipe that polls readable after `set` until `clear`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._read

    def set(self) -> None:
        """Wake the poller; a full pipe means that it is awake already."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def clear(self) -> bool:
        """Forget earlier wake-ups; return whether there were any."""
        some = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                some = True
        return some

    def close(self) -> None:
        """Close both ends."""
        os.close(self._read)
        os.close(self._write)
