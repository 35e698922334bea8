"""Dynamo's guards on the tensors that a graph takes in: here they come to accept two kinds of tensor.

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
from torch._dynamo.source import AttrSource, SubclassAttrListSource
from torch._guards import Guard, TracingContext
from torch.fx import GraphModule
from torch.utils.weak import TensorWeakRef

from dynamo_genie.torch_internals.fake import fake_like, is_fake, unset_fake_temporarily
from dynamo_genie.torch_internals.guarded_memory import no_torch_function, wrapper_tensor
from dynamo_genie.torch_internals.probe import Probe, require

Select = Callable[[torch.Tensor], bool]
"""Tells which tensors may come in either kind."""

StandIn = Callable[[torch.Tensor], torch.Tensor]
"""Returns a tensor of the other kind that may come in a tensor's place: only type, dtype and autograd state matter."""


def example_values(gm: GraphModule) -> list[Any]:
    """Return the fake inputs with which Dynamo traced a graph; relies on `example_value` of placeholders."""
    return [node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")]


def accept_both_kinds(wrapper: type[torch.Tensor], inner: str, select: Select, stand_in: StandIn) -> None:
    """Have the guards on some of the tensors that a frame takes in accept a plain tensor and a `wrapper` alike.

    For a frame that was captured as if all were plain: what Dynamo guards of a wrapper beyond that goes, the wrapping
    itself and what is under its attribute `inner`. Guards on tensors that belong to a module stay as they are. Relies
    on `TracingContext.guards_context` and `ShapeEnv.tracked_fakes` being what Dynamo builds its checks from.
    """
    tensors = _guarded_tensors()
    wrapped = {source for source, tensor in tensors.items() if isinstance(tensor, wrapper)}
    inside = frozenset(AttrSource(source, inner) for source in wrapped)
    own = {source: tensor for source, tensor in tensors.items() if not _is_inside(source, inside)}
    chosen = {source for source, tensor in own.items() if not _is_of_module(source) and select(tensor)}
    guards = [each for each in _guards() if not _is_inside(each.originating_source, inside)]
    guards = [each for each in guards if not _is_of_wrapping(each, wrapped) and not _is_of_type(each, chosen)]
    _guards().__init__({_widened(each, stand_in) if each.originating_source in chosen else each for each in guards})
    fake_mode = TracingContext.get().fake_mode
    shape_env: Any = fake_mode.shape_env if fake_mode is not None else None
    tracked: list[Any] = shape_env.tracked_fakes if shape_env is not None else []
    tracked[:] = [fake for fake in tracked if not _is_inside(fake.source, inside)]


def _guarded_tensors() -> dict[Any, torch.Tensor]:
    """Return the tensors that a frame guards, by source; relies on the argument `value` of what creates the guards."""
    found: dict[Any, torch.Tensor] = {}
    for guard in _guards():
        reference = getattr(guard.create_fn, "keywords", {}).get("value")
        tensor = reference() if isinstance(reference, TensorWeakRef) else None
        if tensor is not None:
            found[guard.originating_source] = tensor
    return found


def _guards() -> Any:
    return TracingContext.get().guards_context.dynamo_guards


def _is_inside(source: Any, inside: Collection[Any]) -> bool:
    while source is not None and source not in inside:
        source = getattr(source, "base", None)
    return source is not None


def _is_of_module(source: Any) -> bool:
    return bool(source.guard_source.is_unspecialized_nn_module() or source.guard_source.is_specialized_nn_module())


def _is_of_wrapping(guard: Guard, wrapped: Collection[Any]) -> bool:
    source = guard.originating_source
    if isinstance(source, SubclassAttrListSource):
        return source.base in wrapped
    return source in wrapped and guard.create_fn_name() == "TENSOR_SUBCLASS_METADATA_MATCH"


def _is_of_type(guard: Guard, sources: Collection[Any]) -> bool:
    return guard.originating_source in sources and guard.create_fn_name() == "TYPE_MATCH"


def _widened(guard: Guard, stand_in: StandIn) -> Guard:
    if guard.create_fn_name() != "TENSOR_MATCH":
        return guard
    return replace(guard, create_fn=partial(_match_both_kinds, original=guard.create_fn, stand_in=stand_in), _hash=None)


def _match_both_kinds(builder: GuardBuilder, guard: Guard, *, original: Callable[..., Any], stand_in: StandIn) -> None:
    """Build Dynamo's guard on a tensor, with a check of our own in place of the one that knows a single type."""
    manager = builder.get_guard_manager(guard)
    value = builder.get(guard)

    def add(_: object, sizes: list[Any], strides: list[Any], name: str, lines: list[str], *rest: Any) -> None:
        same, other = _check_of(value, sizes, strides), _check_of(stand_in(value), sizes, strides)
        user_stack = rest[:-2]  # since torch 2.13
        manager.add_lambda_guard(lambda tensor: same(tensor) or other(tensor), lines, *user_stack)

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


class _Wrapper(torch.Tensor):
    """Holds a tensor, and is captured as a plain one."""

    part: torch.Tensor

    __torch_function__ = no_torch_function  # type: ignore[assignment]

    @classmethod
    def around(cls, part: torch.Tensor) -> _Wrapper:
        wrapper = wrapper_tensor(cls, part.shape, part.stride(), 0, part.dtype)
        wrapper.part = part
        return wrapper

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types its own as a C function, not as a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*(arg.part if isinstance(arg, cls) else arg for arg in args), **(kwargs or {}))

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["part"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], context: None, size: Any, stride: Any) -> torch.Tensor:
        return fake_like(inner["part"], size, stride)


@cache
def _check_widened() -> None:
    seen: list[list[Any]] = []

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        seen.append(example_values(gm))
        accept_both_kinds(_Wrapper, "part", lambda _: True, _other)
        return gm.forward

    program = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)
    plain = torch.ones(2, 3)
    for value in (plain, _Wrapper.around(plain)):
        program(value)
    require(len(seen) == 1, "a tensor of the kind that a guard was widened to runs what was compiled for the other")
    for value in (_Wrapper.around(plain[1:]), plain[1:]):
        program(value)
    require(len(seen) == 2, "a tensor of another shape is compiled for, once for both kinds")
    require(all(is_fake(value) for values in seen for value in values), "what is captured as a plain tensor is one")


def _other(value: torch.Tensor) -> torch.Tensor:
    with unset_fake_temporarily():
        plain = torch.empty(0)
        return plain if isinstance(value, _Wrapper) else _Wrapper.around(plain)


_HOOKS = (
    "torch._C._dynamo.guards.TensorGuards", "torch._dynamo.guards.GuardBuilder",
    "torch._dynamo.source.AttrSource", "torch._dynamo.source.SubclassAttrListSource",
    "torch._guards.Guard", "torch._guards.TracingContext", "torch.utils.weak.TensorWeakRef",
)  # fmt: skip

PROBES = tuple(
    Probe(hook, "compiles a function once for local and remote arguments", _check_widened, ("2.13.0",))
    for hook in _HOOKS
)
