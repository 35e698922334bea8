"""A part of a graph that no daemon runs: it runs here, on fetched values, and what it makes goes up with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynamo_genie.connections.client_work import ClientOperator
from dynamo_genie.lowering.output_shapes import OutputShapes


@dataclass(frozen=True, eq=False)
class ClientPart:
    """A stretch of a graph that runs on the client. Its values have slots like those of a `Part`.

    Attributes:
        run: Runs it, operator by operator.
        inputs: The slot of each input; its weights and other local arguments are the program's own tensors.
        input_shapes: The shape of each input.
        results: The slot of each result.
        result_shapes: The shape of each result.
        written: The slots of inputs that it writes into.
        operators: Why it is here: what of it no daemon runs.
    """

    run: Callable[..., Any]
    inputs: tuple[int, ...]
    input_shapes: tuple[OutputShapes, ...]
    results: tuple[int, ...]
    result_shapes: tuple[OutputShapes, ...]
    written: tuple[int, ...]
    operators: tuple[ClientOperator, ...]
