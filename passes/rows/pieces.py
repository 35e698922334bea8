"""Pieces of rows, `[begin, end)` each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Piece:
    """Rows `begin` to `end`, of which the last is not in it; `index` counts the pieces of a cut."""

    index: int
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """How many rows there are in it."""
        return self.end - self.begin

    @property
    def so_far(self) -> Piece:
        """All rows up to its end."""
        return Piece(self.index, 0, self.end)


def pieces_at(boundaries: Sequence[int]) -> tuple[Piece, ...]:
    """Return the pieces between boundaries, of which the first is 0 and the last the number of rows."""
    return tuple(Piece(index, begin, end) for index, (begin, end) in enumerate(pairwise(boundaries)))
