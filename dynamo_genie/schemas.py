"""Schemas of operators, read once: which arguments an operator writes, and whose memory its results share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import torch

from dynamo_genie.torch_internals.operators import OpOverload

Place: TypeAlias = int | str
"""Where an argument stands: its position, or its name where it can be given by name only."""


@dataclass(frozen=True)
class OperatorResult:
    """One return of an operator: a tensor, a list of them, a plain number, or an argument that it wrote ("self").

    `argument` is where the argument stands that "self" is, or that a view is a view of.
    """

    form: Literal["tensor", "list", "scalar", "self"]
    argument: Place | None = None


@dataclass(frozen=True)
class OperatorSchema:
    """The arguments and results of an operator, and what is known of the memory behind them.

    Attributes:
        names: All arguments, in order.
        shares: Where the arguments stand whose memory is written, or may be a result's too.
        writes: Those among them that are written in place.
    """

    names: tuple[str, ...]
    shares: tuple[Place, ...]
    writes: tuple[Place, ...]
    results: tuple[OperatorResult, ...]

    def argument(self, place: Place, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what a call gives for an argument, by position or by name; None where it gives nothing."""
        if isinstance(place, str):
            return kwargs.get(place)
        return args[place] if place < len(args) else kwargs.get(self.names[place])


@cache
def read_schema(operator: OpOverload) -> OperatorSchema:
    """Read an operator's schema."""
    shares: list[Place] = []
    writes: list[Place] = []
    aliases: dict[str, Place] = {}
    arguments = operator._schema.arguments
    for position, formal in enumerate(arguments):
        if formal.alias_info is None:
            continue
        place: Place = formal.name if formal.kwarg_only else position
        aliases.update(dict.fromkeys(formal.alias_info.before_set, place))
        shares.append(place)
        if formal.alias_info.is_write:
            writes.append(place)
    results = tuple(_result(result, aliases) for result in operator._schema.returns)
    return OperatorSchema(tuple(formal.name for formal in arguments), tuple(shares), tuple(writes), results)


def _result(result: Any, aliases: Mapping[str, Place]) -> OperatorResult:
    shared = None
    if result.alias_info is not None:
        shared = next((aliases[name] for name in result.alias_info.before_set if name in aliases), None)
        if result.alias_info.is_write:
            return OperatorResult("self", shared)
    if isinstance(result.type, torch.ListType):
        return OperatorResult("list", shared)
    if isinstance(result.type, torch.TensorType | torch.OptionalType):
        return OperatorResult("tensor", shared)
    return OperatorResult("scalar")
