"""Schemas of operators, read once: which arguments an operator writes, and whose memory its results share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import torch

from dynamo_genie.torch_internals.operators import OpOverload

_SHARES_ITS_FIRST = frozenset({"aten::_unsafe_view", "aten::unsafe_split", "aten::unsafe_split_with_sizes"})
"""Operators whose results are on the memory of their first argument, and whose schemas do not say so."""

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
    undeclared = operator._schema.name in _SHARES_ITS_FIRST
    if undeclared:
        shares.append(0)
    only = shares[0] if len(shares) == 1 else None
    results = tuple(_result(result, aliases, only, undeclared) for result in operator._schema.returns)
    return OperatorSchema(tuple(formal.name for formal in arguments), tuple(shares), tuple(writes), results)


def _result(result: Any, aliases: Mapping[str, Place], only: Place | None, undeclared: bool) -> OperatorResult:
    """Read one return. A list of views does not say of what; it is of the `only` argument whose memory is shared."""
    shared = only if undeclared else None
    if result.alias_info is not None:
        shared = next((aliases[name] for name in result.alias_info.before_set if name in aliases), only)
        if result.alias_info.is_write:
            return OperatorResult("self", shared)
    if isinstance(result.type, torch.ListType):
        return OperatorResult("list", shared)
    if isinstance(result.type, torch.TensorType | torch.OptionalType):
        return OperatorResult("tensor", shared)
    return OperatorResult("scalar")
