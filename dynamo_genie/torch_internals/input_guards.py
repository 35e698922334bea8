"""Dynamo's guards on the tensors that a graph takes in: here they come to accept more than one kind of tensor.

While a backend compiles, the guards of the frame are still a set of records, from which Dynamo builds its checks when
the backend is through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch._C._dynamo.guards import TensorGuards
from torch._dynamo.guards import GuardBuilder
from torch._dynamo.source import (
    AttrSource,
    SubclassAttrListSource,
    TensorProperty,
    TensorPropertySource,
    is_from_source,
)
from torch._dynamo.variables.builder import TrackedFake
from torch._guards import Guard, TracingContext
from torch.fx import GraphModule
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dynamo_genie.torch_internals.fake import unset_fake_temporarily
from dynamo_genie.torch_internals.probe import Probe, require

StandIns = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""Returns a tensor of each kind that may come in a tensor's place: only type, dtype and autograd state matter."""


def graph_inputs(gm: GraphModule) -> dict[int, torch.Tensor]:
    """Return the real tensors, by position, with which a graph is compiled; those of modules are left out.

    Relies on `grapharg` in the metadata of a placeholder.
    """
    found: dict[int, torch.Tensor] = {}
    for position, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        argument = node.meta.get("grapharg")
        value = argument.example if argument is not None else None
        source = argument.source if argument is not None else None
        if (
            isinstance(value, torch.Tensor)
            and source is not None
            and not source.guard_source.is_unspecialized_nn_module()
        ):
            found[position] = value
    return found


def example_values(gm: GraphModule) -> list[Any]:
    """Return the fake inputs with which Dynamo traced a graph; relies on `example_value` of placeholders."""
    return [node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")]


def accept_all_kinds(gm: GraphModule, positions: Sequence[int], inner: str, stand_ins: StandIns) -> None:
    """Have the guards of some of a graph's inputs accept tensors of every kind that has the same layout and dtype.

    Guards on what is inside a tensor subclass go: on the tensor under its attribute `inner`, and on the wrapping.
    Relies on `TracingContext.guards_context` and `ShapeEnv.tracked_fakes` being what Dynamo builds its checks from.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    arguments = [node.meta["grapharg"] for node in placeholders if node.meta.get("grapharg") is not None]
    sources = {placeholders[position].meta["grapharg"].source for position in positions}
    inside = frozenset(AttrSource(source, inner) for source in sources)
    context = TracingContext.get()
    guards = context.guards_context.dynamo_guards
    kept = [_widened(guard, sources, stand_ins) for guard in guards if not _is_inside(guard.originating_source, inside)]
    guards.__init__(type(guards.inner)(guard for guard in kept if guard is not None))  # type: ignore[misc]
    shape_env: Any = context.fake_mode.shape_env if context.fake_mode is not None else None
    tracked: list[Any] = shape_env.tracked_fakes
    tracked[:] = [each for fake in tracked for each in _unwrapped(fake, sources, inside)]
    for argument in arguments:
        if argument.source is not None and _is_inside(argument.source, inside):
            argument.source = _outer(argument.source, inside)


def _is_inside(source: Any, inside: Collection[Any]) -> bool:
    return any(is_from_source(source, each) for each in inside)


def _outer(source: Any, inside: Collection[Any]) -> Any:
    """Return where the same is found on the tensor that wraps the one inside: both have one layout."""
    return source.base if source in inside else replace(source, base=_outer(source.base, inside))


def _unwrapped(fake: Any, sources: Collection[Any], inside: Collection[Any]) -> list[Any]:
    """Return what stands for a tracked tensor, so that its sizes are read off whatever comes in its place."""
    if fake.source in inside:
        return [replace(fake, source=fake.source.base)]
    if fake.source not in sources or not is_traceable_wrapper_subclass(fake.fake):
        return [fake]
    sizes: list[Any] = list(fake.fake.shape)
    return [
        TrackedFake(size, TensorPropertySource(fake.source, TensorProperty.SIZE, dim), None)
        for dim, size in enumerate(sizes)
        if isinstance(size, torch.SymInt)
    ]


def _widened(guard: Guard, sources: set[Any], stand_ins: StandIns) -> Guard | None:
    """Return what takes the place of a guard: nothing where it is about the wrapping of a tensor."""
    source = guard.originating_source
    if isinstance(source, SubclassAttrListSource):
        return None if source.base in sources else guard
    if source not in sources:
        return guard
    name = guard.create_fn_name()
    if name in ("TYPE_MATCH", "TENSOR_SUBCLASS_METADATA_MATCH"):
        return None
    if name != "TENSOR_MATCH":
        return guard
    return replace(guard, create_fn=partial(_match_any_kind, original=guard.create_fn, stand_ins=stand_ins), _hash=None)


def _match_any_kind(builder: GuardBuilder, guard: Guard, *, original: Callable[..., Any], stand_ins: StandIns) -> None:
    """Build Dynamo's guard on a tensor, with a check of our own in place of the one that knows a single type."""
    manager = builder.get_guard_manager(guard)
    value = builder.get(guard)

    def add(_: object, sizes: list[Any], strides: list[Any], name: str, lines: list[str], *rest: Any) -> None:
        checks = [_check_of(value, sizes, strides), *[_check_of(other, sizes, strides) for other in stand_ins(value)]]
        user_stack = rest[:-2]  # since torch 2.13
        manager.add_lambda_guard(lambda tensor: any(check(tensor) for check in checks), lines, *user_stack)

    redirected = _Redirected(manager, add_tensor_match_guard=add)
    original(_Redirected(builder, get_guard_manager=lambda _: redirected), guard)
    managers: list[Any] = builder.no_tensor_aliasing_guard_managers
    managers[:] = [manager if each is redirected else each for each in managers]


def _check_of(tensor: torch.Tensor, sizes: list[Any], strides: list[Any]) -> Callable[[Any], bool]:
    kind: Any = TensorGuards  # torch's stubs know it with one tensor alone
    with unset_fake_temporarily():
        check: Callable[[Any], bool] = kind(tensor, dynamic_dims_sizes=[sizes], dynamic_dims_strides=[strides]).check
    return check


class _Redirected:
    """Something of Dynamo's, but for the methods that are given."""

    def __init__(self, target: Any, **methods: Callable[..., Any]) -> None:
        self._target = target
        vars(self).update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


@cache
def _check_widened() -> None:
    seen: list[int] = []

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        positions = list(graph_inputs(gm))
        seen.append(len(positions))
        accept_all_kinds(gm, positions, "inner", lambda value: [torch.empty((), dtype=torch.float64)])
        require(all(isinstance(value, torch.Tensor) for value in example_values(gm)), "inputs have fake values")
        return gm.forward

    program = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)
    for dtype in (torch.float32, torch.float64):
        program(torch.ones(2, dtype=dtype))
    require(seen == [1], "a tensor of a kind that a guard was widened to runs what was compiled for another")
    program(torch.ones(3))
    require(seen == [1, 1], "a tensor of another shape is compiled for")


PROBES = tuple(
    Probe(hook, "compiles a function once for local and remote arguments", _check_widened, ("2.13.0",))
    for hook in (
        "torch._dynamo.guards.GuardBuilder", "torch._dynamo.source", "torch._dynamo.variables.builder.TrackedFake",
        "torch._guards.Guard", "torch._guards.TracingContext", "torch._C._dynamo.guards.TensorGuards",
        "torch.utils._python_dispatch.is_traceable_wrapper_subclass",
    )
)  # fmt: skip
