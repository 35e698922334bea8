"""Where a graph runs that is one part: all on one daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dynamo_genie.calls.parts import Placement, whole
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.connections.connection import Connection
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.lowering.output_shapes import OutputShapes


class OnOneDaemon:
    """Keeps a graph whole; placed anew when its connection was lost."""

    def __init__(
        self, lowered: LoweredProgram, plan: CallPlan, shapes: OutputShapes, connect: Callable[[], Connection]
    ) -> None:
        self._lowered = lowered
        self._plan = plan
        self._shapes = shapes
        self._connect = connect
        self._placed: tuple[Connection, Placement] | None = None

    def __call__(self, args: Sequence[Any]) -> Placement:
        """Return the graph as one part."""
        placed = self._placed
        if placed is None or not placed[0].alive:
            connection = self._connect()
            if placed is None or placed[0] is not connection:
                placement = whole(connection, self._lowered, self._plan, self._shapes)
                placed = self._placed = connection, placement
        return placed[1]
