"""Operators as objects: an overload has its schema, `_schema`, and its kernel without Python on the way, `_op`."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch._C import FunctionSchema, parse_schema
from torch._C import _dispatch_has_kernel_for_dispatch_key as has_kernel
from torch._ops import HigherOrderOperator, OperatorBase, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from dynamo_genie.torch_internals.probe import Probe, require

__all__ = [
    "FunctionSchema",
    "HigherOrderOperator",
    "JitType",
    "OpOverload",
    "OperatorBase",
    "TorchDispatchMode",
    "parse_schema",
]

JitType: TypeAlias = "torch._C.JitType"
"""The type of an argument in a schema; only its text is read. Torch's stubs alone know it by this name."""


def composes_others(operator: OpOverload) -> bool:
    """Say whether PyTorch runs the operator as a composition of others, as `operator.decompose` does.

    Some that are composed elsewhere have a kernel for the CPU, which computes other last bits.
    """
    name = operator.name()
    return has_kernel(name, "CompositeImplicitAutograd") and not has_kernel(name, "CPU")


def meta_checks_out(operator: OpOverload) -> bool:
    """Say whether an `out=` operator on meta tensors refuses what the CPU refuses.

    Those do that have a kernel for either. Of others PyTorch's stand-ins are stricter, as they are of those that draw.
    """
    name = operator.name()
    draws = any(argument.name == "generator" for argument in operator._schema.arguments)
    return has_kernel(name, "Meta") and has_kernel(name, "CPU") and not draws


def _check_composed() -> None:
    require(composes_others(torch.ops.aten.flatten.using_ints), "flatten is composed of others")
    require(not composes_others(torch.ops.aten.view.default), "view is not")
    require(not composes_others(torch.ops.aten.silu_backward.default), "nor is what has a kernel of its own")
    require(meta_checks_out(torch.ops.aten.add.out), "add has kernels for the CPU and for meta tensors")
    require(not meta_checks_out(torch.ops.aten._pin_memory.out), "pinning has not")
    flat = torch.ops.aten.flatten.using_ints.decompose(torch.ones(2, 3), 0, 1)
    require(flat.shape == (6,), "an operator that is composed of others runs as these")


def _check_overload() -> None:
    add = torch.ops.aten.add.Tensor
    require(type(add) is OpOverload, "operators are OpOverload, and no subclass of it")
    require(str(add) == "aten.add.Tensor", "an operator's text is its key in the operator table")
    require(torch.equal(add._op(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0)), "`_op` runs the operator")
    require(torch.Tag.pointwise in add.tags, "operators have tags")


def _check_schema() -> None:
    schema = torch.ops.aten.add_.Tensor._schema
    require(isinstance(schema, FunctionSchema), "an overload has its schema")
    require([argument.name for argument in schema.arguments] == ["self", "other", "alpha"], "arguments have names")
    require([argument.kwarg_only for argument in schema.arguments] == [False, False, True], "and say how to be given")
    written = schema.arguments[0].alias_info
    require(written is not None and written.is_write, "an argument says that it is written")
    require(schema.is_mutable and len(schema.returns) == 1, "a schema says so too, and has returns")


def _check_parsed() -> None:
    schema = parse_schema("genie::probe(Tensor[] a, int? b=None) -> (Tensor, Tensor)")
    require(
        [str(argument.type) for argument in schema.arguments] == ["List[Tensor]", "Optional[int]"], "types have text"
    )


def _check_mode() -> None:
    seen: list[object] = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():  # type: ignore[no-untyped-call]
        torch.ones(1).neg()
    require(torch.ops.aten.neg.default in seen, "a mode sees each operator")


PROBES = (
    Probe("torch._ops.OpOverload", "tells operators from other functions in a graph, and runs them", _check_overload),
    Probe(
        "torch._ops.OperatorBase", "tells operators from other functions", lambda: issubclass(OpOverload, OperatorBase)
    ),
    Probe(
        "torch._ops.HigherOrderOperator",
        "names operators that no daemon runs",
        lambda: issubclass(HigherOrderOperator, OperatorBase),
    ),
    Probe(
        "torch._C._dispatch_has_kernel_for_dispatch_key",
        "takes operators apart that arrive whole in inference mode",
        _check_composed,
    ),
    Probe("torch._C.FunctionSchema", "tells what an operator reads, writes and returns", _check_schema),
    Probe("torch.utils._python_dispatch.TorchDispatchMode", "counts the operators of eager code", _check_mode),
    Probe("torch._C.parse_schema", "gives operators of our own a schema", _check_parsed),
)
