"""Which kinds of memory a process has mapped where, read from /proc/self/maps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapped range. `shared`: others may write it. `path`: the file behind it, empty for anonymous memory."""

    start: int
    end: int
    shared: bool
    inode: int
    path: str


class MemoryMap:
    """A snapshot of the process's mappings. Of its hundreds of lines, those are read that are asked for."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()

    @classmethod
    def of_this_process(cls) -> MemoryMap:
        """Read the map; where the system keeps none, an empty one is returned, which covers nothing."""
        try:
            return cls(Path("/proc/self/maps").read_text(errors="surrogateescape"))
        except OSError:
            return cls("")

    def covering(self, start: int, end: int) -> list[Mapping]:
        """Return the mappings that cover a range without a gap; empty when a part is not mapped."""
        found: list[Mapping] = []
        index = max(bisect_right(self._lines, start, key=_start_of) - 1, 0)
        for mapping in map(_parse, islice(self._lines, index, None)):
            if mapping.start > start or start >= end:
                break
            found.append(mapping)
            start = max(start, mapping.end)
        return found if start >= end else []


def _start_of(line: str) -> int:
    return int(line[: line.index("-")], 16)


def _parse(line: str) -> Mapping:
    extent, permissions, _offset, _device, inode, *path = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in extent.split("-"))
    return Mapping(start, end, permissions[3] == "s", int(inode), path[0] if path and int(inode) else "")
