"""Where boxes and arrows go on a picture, row below row. Pure geometry: knows numbers, no graphs.

What flows further than to the next row keeps a lane of its own through the rows between (after Sugiyama), one for all
targets of a source, so that no arrow runs through a box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

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
    flow = nx.DiGraph()
    flow.add_nodes_from(range(n_boxes))
    flow.add_edges_from(sorted((source, target) for source, target in arrows if source < target))
    ranks = {box: rank for rank, boxes in enumerate(nx.topological_generations(flow)) for box in boxes}
    slots = nx.DiGraph()
    slots.add_nodes_from((box, -1) for box in range(n_boxes))
    for source, target in flow.edges:
        nx.add_path(slots, [(source, -1), *_lanes(source, target, ranks), (target, -1)])
    rows: list[list[Slot]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
    for box, row in slots:
        rows[ranks[box] if row < 0 else row].append((box, row))
    x = _columns(rows, slots)
    left = min((x[slot] - _width(slot) / 2 for slot in x), default=0.0)
    x = {slot: value - left + MARGIN for slot, value in x.items()}
    right = max((x[slot] + _width(slot) / 2 for slot in x), default=0.0)
    centres = tuple((x[box, -1], _row_y(ranks[box])) for box in range(n_boxes))
    routes = tuple(_route(source, target, ranks, x) for source, target in sorted(set(arrows)))
    return Layout(centres, routes, right + MARGIN, _row_y(len(rows) - 1) + BOX_HEIGHT / 2 + MARGIN)


def _lanes(source: int, target: int, ranks: Mapping[int, int]) -> list[Slot]:
    """Return the lanes of what flows further than to the next row; only what flows forward has any."""
    return [(source, row) for row in range(ranks[source] + 1, ranks[target])] if source < target else []


def _columns(rows: Sequence[list[Slot]], slots: nx.DiGraph) -> dict[Slot, float]:
    """Give each slot an x near its neighbours' above, then below, and apart from the others in its row, by sweeps."""
    x: dict[Slot, float] = {}
    for row in rows:
        _spread(row, dict.fromkeys(row, 0.0), x)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = slots.predecessors if downwards else slots.successors
        for row in rows if downwards else rows[::-1]:
            wanted = {slot: _mean([x[other] for other in near(slot)], x[slot]) for slot in row}
            row.sort(key=wanted.__getitem__)
            _spread(row, wanted, x)
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


def _route(source: int, target: int, ranks: Mapping[int, int], x: Mapping[Slot, float]) -> Route:
    start = (x[source, -1], _row_y(ranks[source]) + BOX_HEIGHT / 2)
    end = (x[target, -1], _row_y(ranks[target]) - BOX_HEIGHT / 2)
    lanes = [(x[lane], _row_y(lane[1])) for lane in _lanes(source, target, ranks)]
    points = [(at, y + side * BOX_HEIGHT / 2) for at, y in lanes for side in (-1, 1)]
    return Route(source, target, (start, *points, end))


def _row_y(row: int) -> float:
    return MARGIN + BOX_HEIGHT / 2 + row * (BOX_HEIGHT + GAP_Y)


def _width(slot: Slot) -> float:
    return BOX_WIDTH if slot[1] < 0 else LANE_WIDTH


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
