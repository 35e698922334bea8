"""What is done to a result: each public member of `torch.Tensor`, with arguments. Knows nothing of any backend.

Arguments come from PyTorch's own operator samples where it has some, from `by_hand` for the rest; a member that
needs none is read or called as it is.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

from tests.integration.every_method.by_hand import ARGUMENTS, INPUTS, PLAIN_INPUTS

SAMPLES = 2
DTYPES = (torch.float32, torch.int64, torch.bool, torch.complex64)

EXCLUDED = {
    "__annotations__": "Python's machinery",
    "__class__": "Python's machinery",
    "__delattr__": "Python's machinery",
    "__dict__": "Python's machinery",
    "__dir__": "Python's machinery",
    "__doc__": "Python's machinery",
    "__getattribute__": "Python's machinery",
    "__getstate__": "Python's machinery: pickling goes through __reduce_ex__",
    "__hash__": "the identity of an object",
    "__init__": "Python's machinery",
    "__init_subclass__": "Python's machinery",
    "__module__": "Python's machinery",
    "__new__": "Python's machinery",
    "__reduce__": "pickling goes through __reduce_ex__",
    "__setattr__": "Python's machinery",
    "__sizeof__": "Python's machinery",
    "__subclasshook__": "Python's machinery",
    "__torch_dispatch__": "how a subclass answers, no operation",
    "__torch_function__": "how a subclass answers, no operation",
    "__weakref__": "Python's machinery",
    "__dlpack_c_exchange_api__": "a capsule of C functions, the same for every tensor",
    "new": "returns memory that nobody wrote",
    "new_empty": "returns memory that nobody wrote",
    "new_empty_strided": "returns memory that nobody wrote",
}
"""Members that are no operation on a tensor's values, or that show memory nobody wrote."""


@dataclass(frozen=True)
class Case:
    """One use of one member."""

    member: str
    label: str
    values: Tensor
    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    def copy_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Equal arguments that no other run has seen."""
        copied: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(_copy, (self.arguments, self.keywords))
        return copied


def _copy(value: Any) -> Any:
    return copy.deepcopy(value.detach()) if isinstance(value, Tensor) else value


def members() -> list[str]:
    """Every public name of `torch.Tensor`, and the operators that Python spells with symbols."""
    return [
        name for name in dir(Tensor) if (name.startswith("__") or not name.startswith("_")) and name not in EXCLUDED
    ]


@cache
def cases() -> tuple[Case, ...]:
    """Every case, in an order that does not change between processes."""
    sampled = _operators_of_members()
    found: list[Case] = []
    for member in members():
        if member in ARGUMENTS:
            found += _by_hand(member)
        elif member in sampled:
            found += _from_samples(member, sampled[member])
        else:
            found += _bare(member)
    return tuple(found)


def _operators_of_members() -> dict[str, list[Any]]:
    """Which entries of `op_db` have samples for a member, under its own name or under another."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)  # by identity: comparing two entries takes long
    for op in op_db:
        for way in (op, *op.aliases):
            for spelled in (way.name, _name(way.method_variant), _name(way.inplace_variant)):
                found[spelled][id(op)] = op
        for operator in (op.operator_variant, op.inplace_operator_variant):
            found[f"__{_name(operator).strip('_')}__"][id(op)] = op
    return {spelled: list(ops.values()) for spelled, ops in found.items()}


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")


def _by_hand(member: str) -> Iterator[Case]:
    for number, use in enumerate(ARGUMENTS[member]):
        for kind in use.inputs:
            yield Case(member, f"by hand {number}, {kind}", INPUTS[kind], use.call)


def _bare(member: str) -> Iterator[Case]:
    def use(tensor: Tensor) -> Any:
        value = getattr(tensor, member)
        return value() if callable(value) and not isinstance(value, type) else value

    for kind in PLAIN_INPUTS:
        yield Case(member, kind, INPUTS[kind], use)


def _from_samples(member: str, ops: list[Any]) -> Iterator[Case]:
    in_place = (member.endswith("_") and not member.endswith("__")) or member in _IN_PLACE_OPERATORS

    def use(tensor: Tensor, *arguments: Any, **keywords: Any) -> Any:
        return getattr(tensor, member)(*arguments, **keywords)

    for op in ops:
        dtype = next((dtype for dtype in DTYPES if op.supports_dtype(dtype, "cpu")), None)
        if dtype is None:
            continue
        torch.manual_seed(0)
        usable = (
            sample
            for sample in op.sample_inputs_func(op, "cpu", dtype, False)  # `sample_inputs` would look through the stack
            if isinstance(sample.input, Tensor)
            and sample.input.layout == torch.strided
            and not (in_place and sample.broadcasts_input)
        )
        for number, sample in enumerate(itertools.islice(usable, SAMPLES)):
            label = f"{op.name}{'.' if op.variant_test_name else ''}{op.variant_test_name} {number}, {dtype}"
            yield Case(member, label, sample.input.detach(), use, tuple(sample.args), dict(sample.kwargs))


_IN_PLACE_OPERATORS = frozenset(name for name in dir(Tensor) if name.startswith("__i") and name != "__invert__")
