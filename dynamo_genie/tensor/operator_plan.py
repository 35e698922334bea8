"""What a schema says about an operator: which arguments it writes, which results are views, what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from dynamo_genie.torch_internals.operators import OpOverload

Kind = Literal["tensor", "list", "scalar", "self"]


@dataclass(frozen=True)
class Result:
    """One return of an operator. For "self", `argument` says which argument it is; for a view, what it views."""

    kind: Kind
    argument: int | str | None = None


@dataclass(frozen=True)
class OperatorPlan:
    """`writes` lists positions (or names, for keyword-only arguments) of arguments written in place."""

    writes: tuple[int | str, ...]
    results: tuple[Result, ...]
    random: bool

    def argument(self, which: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the argument at a position, wherever the caller put it."""
        if isinstance(which, str):
            return kwargs.get(which)
        return args[which] if which < len(args) else None


def plan_operator(func: OpOverload) -> OperatorPlan:
    """Read an operator's schema."""
    schema = func._schema
    writes: list[int | str] = []
    aliases: dict[str, int | str] = {}
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is None:
            continue
        which: int | str = argument.name if argument.kwarg_only else position
        aliases.update(dict.fromkeys(argument.alias_info.before_set, which))
        if argument.alias_info.is_write:
            writes.append(which)
    results = tuple(_result(result, aliases) for result in schema.returns)
    return OperatorPlan(tuple(writes), results, torch.Tag.nondeterministic_seeded in func.tags)


def _result(result: Any, aliases: dict[str, int | str]) -> Result:
    viewed = None
    if result.alias_info is not None:
        viewed = next((aliases[name] for name in result.alias_info.before_set if name in aliases), None)
        if result.alias_info.is_write:
            return Result("self", viewed)
    if isinstance(result.type, torch.ListType):
        return Result("list", viewed)
    if isinstance(result.type, torch.TensorType | torch.OptionalType):
        return Result("tensor", viewed)
    return Result("scalar")
