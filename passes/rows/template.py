"""The template of a call: what an operator is given when it runs on a piece of the rows, and where its rows are then.

A rule makes one of each call of a graph; a piece fills it in. It is data, and knows nothing of any one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node
from torch.fx.node import map_aggregate


class CannotCut(Exception):
    """An operator is not row-wise, or nobody has proved it; the message says why, and follows the operator's name."""


TAKES = "takes "
"""How the reason begins why a call that reads some of the rows is made once: nothing of it is lost."""


@dataclass(frozen=True)
class Axis:
    """Where the rows of a value lie: `dim` has `outer` blocks, in each of them every row, each `inner` entries long.

    A batch of images as [images, pixels, width] and as [images * pixels, width] has its rows along dimension 0,
    with `inner` 1 and `inner` pixels.
    """

    dim: int
    outer: int = 1
    inner: int = 1

    def size(self, rows: int) -> int:
        """Return the size of the dimension that holds this many rows."""
        return self.outer * rows * self.inner


Axes = Axis | tuple[Axis | None, ...]
"""The axis of a value, or those of an operator's results; None for a result without rows."""


@dataclass(frozen=True)
class Rows:
    """Stands for the piece's rows of a value; without an axis, for what an operator with several results made of it."""

    node: Node
    axis: Axis | None


@dataclass(frozen=True)
class Prefix:
    """Stands for all rows of a value up to the end of the piece."""

    node: Node
    axis: Axis


@dataclass(frozen=True)
class Size:
    """Stands for the size of a dimension that holds the piece's rows."""

    axis: Axis


@dataclass(frozen=True)
class CausalMask:
    """Stands for what an attention adds to its scores: -inf where a key comes after the query, else 0.

    Attributes:
        like: A value of the mask's dtype.
    """

    like: Node


@dataclass(frozen=True)
class RowWise:
    """What a rule has found: where the rows of the result are, and how a piece of them is made.

    Attributes:
        args, kwargs: The arguments; in place of what depends on the piece stand `Rows`, `Prefix`, `Size` and
            `CausalMask`. A node that stands there as it is, is given whole.
        arranges: Whether it only arranges its first argument anew, so that many rows cost what few do.
    """

    axes: Axes
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    arranges: bool = False


class Known:
    """The axes of a graph's values, as far as they are known: what rules ask.

    Attributes:
        rows: How many rows there are.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.axes: dict[Node, Axes] = {}

    def axis(self, value: Any) -> Axis | None:
        """Return where a tensor's rows are; None for what is the same for all rows, and for what is no node."""
        axes = self.axes.get(value) if isinstance(value, Node) else None
        return axes if isinstance(axes, Axis) else None

    def has_rows(self, value: Any) -> bool:
        """Say whether an argument, or anything in it, has rows."""
        return any(node in self.axes for node in nodes_of(value))


def nodes_of(value: Any) -> list[Node]:
    """Return the nodes in an argument of any depth."""
    found: list[Node] = []
    map_aggregate(value, lambda leaf: found.append(leaf) if isinstance(leaf, Node) else None)
    return found


Rule = Callable[[Node, Known], RowWise]
"""Says how an operator of which an argument has rows works on a piece of them; raises `CannotCut` where it does not."""
