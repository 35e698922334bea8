"""Where boxes and arrows go on a picture, row below row. Pure geometry: knows numbers, no graphs.

What flows further than to the next row keeps a lane of its own through the rows between (after Sugiyama), one for all
targets of a source, so that no arrow runs through a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BOX_WIDTH, BOX_HEIGHT = 276.0, 66.0
LANE_WIDTH = 12.0
GAP_X, GAP_Y = 26.0, 40.0
MARGIN = 18.0
SWEEPS = 6

Slot = tuple[int, int]
"""(box, -1) for a box, (box, row) for the lane of what that box makes in some row below it."""


@dataclass(frozen=True)
class Route:
    """The points through which an arrow goes, from the lower edge of its source to the upper edge of its target."""

    source: int
    target: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layout:
    """Centres of the boxes, routes of the arrows, and the size of it all."""

    centres: tuple[tuple[float, float], ...]
    routes: tuple[Route, ...]
    width: float
    height: float


def lay_out(n_boxes: int, arrows: Sequence[tuple[int, int]]) -> Layout:
    """Place boxes, numbered in an order in which they may run, and the arrows between them."""
    forward = sorted({(source, target) for source, target in arrows if source < target})
    ranks = _ranks(n_boxes, forward)
    rows = _rows(ranks, forward)
    links = _links(ranks, forward)
    _order(rows, links)
    x = _columns(rows, links)
    left = min(x[slot] - _width(slot) / 2 for slot in x) if x else 0.0
    x = {slot: value - left + MARGIN for slot, value in x.items()}
    centres = tuple((x[box, -1], _row_y(ranks[box])) for box in range(n_boxes))
    right = max((x[slot] + _width(slot) / 2 for slot in x), default=0.0)
    routes = tuple(_route(source, target, ranks, x) for source, target in sorted(set(arrows)))
    return Layout(centres, routes, right + MARGIN, _row_y(max(ranks, default=0)) + BOX_HEIGHT / 2 + MARGIN)


def _ranks(n_boxes: int, forward: Sequence[tuple[int, int]]) -> list[int]:
    """Return the row of each box: one below the lowest of what it reads."""
    ranks = [0] * n_boxes
    for source, target in forward:  # sorted by source, and a source's rank is final once its number is reached
        ranks[target] = max(ranks[target], ranks[source] + 1)
    return ranks


def _rows(ranks: Sequence[int], forward: Sequence[tuple[int, int]]) -> list[list[Slot]]:
    rows: list[list[Slot]] = [[] for _ in range(max(ranks, default=0) + 1)]
    for box, rank in enumerate(ranks):
        rows[rank].append((box, -1))
    for source in range(len(ranks)):
        last = max((ranks[target] for start, target in forward if start == source), default=0)
        for row in range(ranks[source] + 1, last):
            rows[row].append((source, row))
    return rows


def _links(ranks: Sequence[int], forward: Sequence[tuple[int, int]]) -> list[tuple[Slot, Slot]]:
    """Return the pairs of slots in neighbouring rows that an arrow joins."""
    links: dict[tuple[Slot, Slot], None] = {}
    for source, target in forward:
        path = _path(source, target, ranks)
        links.update(dict.fromkeys(pairwise(path)))
    return list(links)


def _path(source: int, target: int, ranks: Sequence[int]) -> list[Slot]:
    return [(source, -1), *((source, row) for row in range(ranks[source] + 1, ranks[target])), (target, -1)]


def _order(rows: list[list[Slot]], links: Sequence[tuple[Slot, Slot]]) -> None:
    """Order each row by where its neighbours above, then below, stand."""
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = _neighbours(links, downwards)
        for row in rows if downwards else rows[::-1]:
            place = {slot: position / len(other) for other in rows for position, slot in enumerate(other)}
            wanted = {slot: _mean([place[n] for n in near.get(slot, ())], place[slot]) for slot in row}
            row.sort(key=wanted.__getitem__)


def _columns(rows: list[list[Slot]], links: Sequence[tuple[Slot, Slot]]) -> dict[Slot, float]:
    """Give each slot an x near its neighbours' and apart from the others in its row."""
    x: dict[Slot, float] = {}
    for row in rows:
        _spread(row, dict.fromkeys(row, 0.0), x)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = _neighbours(links, downwards)
        for row in rows if downwards else rows[::-1]:
            _spread(row, {slot: _mean([x[n] for n in near.get(slot, ())], x[slot]) for slot in row}, x)
    return x


def _spread(row: Sequence[Slot], wanted: dict[Slot, float], x: dict[Slot, float]) -> None:
    """Place a row from left to right without overlap, then move it so that on average it stands as wanted."""
    edge = float("-inf")
    for slot in row:
        x[slot] = max(wanted[slot], edge + _width(slot) / 2)
        edge = x[slot] + _width(slot) / 2 + GAP_X
    shift = _mean([wanted[slot] - x[slot] for slot in row], 0.0)
    for slot in row:
        x[slot] += shift


def _neighbours(links: Sequence[tuple[Slot, Slot]], above: bool) -> dict[Slot, list[Slot]]:
    found: dict[Slot, list[Slot]] = {}
    for upper, lower in links:
        if above:
            found.setdefault(lower, []).append(upper)
        else:
            found.setdefault(upper, []).append(lower)
    return found


def _route(source: int, target: int, ranks: Sequence[int], x: dict[Slot, float]) -> Route:
    start = (x[source, -1], _row_y(ranks[source]) + BOX_HEIGHT / 2)
    end = (x[target, -1], _row_y(ranks[target]) - BOX_HEIGHT / 2)
    between = range(ranks[source] + 1, ranks[target]) if source < target else ()  # only what flows forward has lanes
    lanes = [(x[source, row], row) for row in between]
    points = [(at, _row_y(row) + side * BOX_HEIGHT / 2) for at, row in lanes for side in (-1, 1)]
    return Route(source, target, (start, *points, end))


def _row_y(row: int) -> float:
    return MARGIN + BOX_HEIGHT / 2 + row * (BOX_HEIGHT + GAP_Y)


def _width(slot: Slot) -> float:
    return BOX_WIDTH if slot[1] < 0 else LANE_WIDTH


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
