"""Branches and loops: what runs sub-programs, in the daemon, as the operators of `torch.ops.higher_order` do.

A sub-program is called like a program: with its inputs in a list, which it empties; it returns a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

SubCall: TypeAlias = Callable[[list[Any]], tuple[Any, ...]]
"""A sub-program, ready to be called."""


def cond(chosen: Any, true: SubCall, false: SubCall, operands: Sequence[Any]) -> tuple[Any, ...]:
    """Run one of two branches."""
    return (true if chosen else false)(list(operands))


def map_impl(body: SubCall, mapped: Sequence[torch.Tensor], others: Sequence[Any]) -> list[Any]:
    """Run the body for each row of the mapped tensors, and stack what it returns."""
    rows = zip(*(tensor.unbind() for tensor in mapped), strict=True)
    return _stacked([body([*row, *others]) for row in rows])


def scan(
    combine: SubCall, init: Sequence[torch.Tensor], mapped: Sequence[torch.Tensor], others: Sequence[Any]
) -> list[Any]:
    """Run the body for each row, carrying its first results on; return those, and the others stacked."""
    carry, rows = list(init), []
    for number in range(max(1, mapped[0].size(0))):  # without a row, `select` says so
        found = combine([*carry, *(tensor.select(0, number) for tensor in mapped), *others])
        carry = list(found[: len(carry)])
        rows.append(found[len(carry) :])
    return [*carry, *_stacked(rows)]


def while_loop(goes_on: SubCall, body: SubCall, carried: Sequence[Any], others: Sequence[Any]) -> tuple[Any, ...]:
    """Run the body as long as its condition holds; return what it carries. Without a step, copies."""
    values, _ = _looped(goes_on, body, carried, others, keep=False)
    return values if values is not None else tuple(_copy(value) for value in carried)


def while_loop_stack_output(
    goes_on: SubCall, body: SubCall, carried: Sequence[Any], others: Sequence[Any]
) -> tuple[Any, ...]:
    """Run the body as long as its condition holds; return all that it carried, stacked, for a backward."""
    values, steps = _looped(goes_on, body, carried, others, keep=True)
    return tuple(_stacked(steps)) if values is not None else tuple(_copy(value).unsqueeze(0) for value in carried)


def _looped(
    goes_on: SubCall, body: SubCall, carried: Sequence[Any], others: Sequence[Any], *, keep: bool
) -> tuple[tuple[Any, ...] | None, list[tuple[Any, ...]]]:
    """Return what is carried in the end, None where no step was made, and what each step carried."""
    values: tuple[Any, ...] | None = None
    steps: list[tuple[Any, ...]] = []
    while goes_on([*(carried if values is None else values), *others])[0]:
        values = body([*(carried if values is None else values), *others])
        if keep:
            steps.append(values)
    return values, steps


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _stacked(rows: Sequence[Sequence[Any]]) -> list[Any]:
    return [torch.stack(column) if column[0] is not None else None for column in zip(*rows, strict=True)]


# --- what fits -------------------------------------------------------------------------------------------

Counts: TypeAlias = Sequence[int]


def _branches(results: Counts, lists: Counts) -> str:
    return "" if results[0] == results[1] else f"its branches return {results[0]} and {results[1]} values"


def _mapped(results: Counts, lists: Counts) -> str:
    return "" if lists[0] else "there is nothing to map over"


def _scanned(results: Counts, lists: Counts) -> str:
    if not lists[1]:
        return "there is nothing to scan"
    return "" if results[0] >= lists[0] else f"its body returns {results[0]} values and carries {lists[0]}"


def _repeated(results: Counts, lists: Counts) -> str:
    if results[0] != 1:
        return f"its condition returns {results[0]} values"
    return "" if results[1] == lists[0] else f"its body returns {results[1]} values and carries {lists[0]}"


@dataclass(frozen=True)
class ControlFlow:
    """The form of an operator that runs sub-programs: so many of them, then lists that they are called with.

    Attributes:
        run: What is called.
        bodies: How many sub-programs it runs.
        lists: How many lists of values follow.
        problem: Says what is wrong with how much its sub-programs return, and how long the lists are; "" if nothing.
        chosen: Whether a truth value comes first.
        reads_data: Whether the data decides what runs.
    """

    run: Callable[..., Any]
    bodies: int
    lists: int
    problem: Callable[[Counts, Counts], str]
    chosen: bool = False
    reads_data: bool = False


CONTROL_FLOW: Mapping[str, ControlFlow] = MappingProxyType(
    {
        "higher_order.cond": ControlFlow(cond, 2, 1, _branches, chosen=True, reads_data=True),
        "higher_order.map_impl": ControlFlow(map_impl, 1, 2, _mapped),
        "higher_order.scan": ControlFlow(scan, 1, 3, _scanned),
        "higher_order.while_loop": ControlFlow(while_loop, 2, 2, _repeated, reads_data=True),
        "higher_order.while_loop_stack_output": ControlFlow(while_loop_stack_output, 2, 2, _repeated, reads_data=True),
    }
)
