"""Parts of what there is to be tested, chosen by names: the same on every machine, and each name in one of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One of several parts, counted from 1."""

    number: int = 1
    of: int = 1

    def has(self, name: str) -> bool:
        """Say whether a name is in this part."""
        return zlib.crc32(name.encode()) % self.of == self.number - 1


def part_of(arguments: list[str]) -> tuple[Part, list[str]]:
    """Return the part that `--part NUMBER/OF` asks for, everything without it, and the other arguments."""
    if arguments[:1] != ["--part"]:
        return Part(), arguments
    number, of = map(int, arguments[1].split("/"))
    assert 1 <= number <= of, arguments[1]
    return Part(number, of), arguments[2:]
