"""Higher-order operators of torch: what they are made of, where a graph must take them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C import DispatchKey
from torch._higher_order_ops.auto_functionalize import (
    AliasViewInfo,
    AsStridedViewInfo,
    SliceViewInfo,
    get_mutable_args_from_schema,
    read_view_information_from_args,
)
from torch._ops import HigherOrderOperator, OperatorBase, OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_unflatten

from dynamo_genie.torch_internals.probe import Probe, require

aten = torch.ops.aten


@dataclass(frozen=True)
class ViewOfBase:
    """An argument that an operator writes into, as a view of one of the bases that are copied before.

    Attributes:
        base: The number of the base.
        operator: What makes the view of the base, or None for the base itself.
        args: What follows the base among the operator's arguments.
    """

    base: int
    operator: OpOverload | None = None
    args: tuple[Any, ...] = ()


def mutable_call(
    target: OpOverload | HigherOrderOperator, schema: Any, given: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], tuple[tuple[Any, ...], Mapping[str, Any]]]]:
    """Read one `auto_functionalized_v2`, which is a call of an operator that writes, on copies.

    Args:
        target: The operator that writes.
        schema: The specification of its schema that the call holds, for a higher-order operator.
        given: The call's other arguments by name, without the bases.

    Returns:
        For each argument that is written a `ViewOfBase`, a list of them, or None; and a function that makes the
        positional and the named arguments of the operator out of all of its arguments by name.
    """
    own: Any = target._schema if isinstance(target, OpOverload) else tree_unflatten([], schema).schema
    names, types = get_mutable_args_from_schema(own)
    rest = dict(given)
    views = {name: _view(found) for name, found in read_view_information_from_args(names, types, rest, []).items()}

    def arguments(by_name: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if isinstance(target, OpOverload):
            return (), by_name
        flat = [by_name[argument.name] for argument in own.arguments]
        args, kwargs = tree_unflatten(flat, own.tree_spec) if own.tree_spec is not None else (flat, {})
        return tuple(args), kwargs

    return {**rest, **views}, arguments


def _view(found: Any) -> Any:
    if found is None:
        return None
    if isinstance(found, list):
        return [_view(item) for item in found]
    if isinstance(found, AliasViewInfo):
        return ViewOfBase(found.base_index, aten.alias.default)
    if isinstance(found, SliceViewInfo):
        return ViewOfBase(found.base_index, aten.slice.Tensor, (found.dim, found.start, found.end))
    if isinstance(found, AsStridedViewInfo):
        where = (found.size, found.stride, found.storage_offset)
        return ViewOfBase(found.base_index, aten.as_strided.default, where)
    return ViewOfBase(found.base_index)


def dense_form(operator: HigherOrderOperator) -> Callable[..., Any]:
    """Return the function of plain operators that a higher-order operator is on tensors of any device."""
    form: Callable[..., Any] = operator.py_kernels[DispatchKey.CompositeExplicitAutograd]
    return form


def trace(
    function: Callable[..., Any], fakes: Sequence[Any], decompositions: Mapping[OperatorBase, Callable[..., Any]]
) -> GraphModule:
    """Return the graph of what a function of fake tensors and symbolic numbers computes, without what nobody reads."""
    tensor = next(fake for fake in fakes if isinstance(fake, FakeTensor))
    with tensor.fake_mode:
        traced: GraphModule = make_fx(function, decomposition_table=dict(decompositions))(*fakes)  # type: ignore[arg-type]
    traced.graph.eliminate_dead_code()
    return traced


def _check_mutable_call() -> None:
    made, arguments = mutable_call(aten.add_.Tensor, None, {"other": 1, "_self_base_index": 0})
    require(made == {"other": 1, "self": ViewOfBase(0)}, "what is written is named by its base")
    require(arguments(made) == ((), made), "an operator takes its arguments by name")
    sliced = {"_a_base_index": 0, "_a_slice_dim": 1, "_a_slice_start": 2, "_a_slice_end": 3}
    view = read_view_information_from_args(["a"], [torch.TensorType.get()], sliced, [])["a"]  # type: ignore[list-item]
    require(_view(view) == ViewOfBase(0, aten.slice.Tensor, (1, 2, 3)), "a slice is told by its place")


def _check_trace() -> None:
    with FakeTensorMode():
        fake = torch.empty(2)
    traced = trace(lambda tensor: tensor.sin(), [fake], {})
    require(
        any(node.target is aten.sin.default for node in traced.graph.nodes), "the operators of a function are found"
    )


def _check_dense_form() -> None:
    query = torch.ones(1, 1, 2, 4)
    mask = (*([None] * 12), 128, 128, lambda b, h, q, k: q >= k)
    found = dense_form(torch.ops.higher_order.flex_attention)(
        query, query, query, lambda score, b, h, q, k: score, mask, 1.0, {}, (), ()
    )
    require(torch.equal(found[0], query), "flex attention is a function of plain operators")


PROBES = tuple(
    Probe(hook, purpose, check)
    for hooks, purpose, check in (
        (
            tuple(
                f"torch._higher_order_ops.auto_functionalize.{name}"
                for name in (
                    "AliasViewInfo", "AsStridedViewInfo", "SliceViewInfo", "get_mutable_args_from_schema",
                    "read_view_information_from_args",
                )
            ),
            "tells what an operator writes that a graph calls on copies",
            _check_mutable_call,
        ),
        (
            (
                "torch._C.DispatchKey", "torch._ops.HigherOrderOperator", "torch._ops.OperatorBase",
                "torch._ops.OpOverload", "torch.utils._pytree.tree_unflatten",
            ),
            "takes flex attention apart into plain operators",
            _check_dense_form,
        ),
        (
            ("torch._subclasses.fake_tensor.FakeTensor", "torch._subclasses.fake_tensor.FakeTensorMode"),
            "traces functions of fake tensors",
            _check_trace,
        ),
    )
    for hook in hooks
)  # fmt: skip
