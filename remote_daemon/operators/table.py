"""The operator table: what each key runs on this worker's device. Runs in workers only: imports torch.

A key is looked up in tables that this module builds from its own constants; no text from the network is ever
followed through attributes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial, wraps
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.operators import attention, generator, grouped_mm, lstm
from dynamo_genie.remote_daemon.operators.control_flow import CONTROL_FLOW
from dynamo_genie.runtime.wire.operators import ATEN, CPU_ONLY, FUNCTIONS
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import FunctionSchema, OpOverload
from dynamo_genie.torch_internals.pytree import tree_map_only

Run = Callable[..., Any]

_INT64 = 1 << 63


@dataclass(frozen=True)
class Operator:
    """One operator as a worker runs it.

    Attributes:
        run: What is called.
        schema: None for functions on plain numbers, "getitem", branches and loops.
        needs_device: Whether a call must be told on which device to make its result.
        overload: The ATen operator that `run` is, where it is one: what compilers know it by.
    """

    key: str
    run: Run
    schema: FunctionSchema | None
    random: bool = False
    needs_device: bool = False
    overload: OpOverload | None = None

    @property
    def reads_data(self) -> bool:
        """Whether the result is a number, or has a size, that only the data can tell: a device must be waited for."""
        if self.key in CONTROL_FLOW:
            return CONTROL_FLOW[self.key].reads_data
        if self.key in _GROUPED:  # plain products on rows that the data tells
            return True
        tags = self.overload.tags if self.overload is not None else ()
        # indexing has the tag for boolean masks, which are seldom; those fail when they are met
        is_index = self.key in ("aten.index.Tensor", "aten._unsafe_index.Tensor")
        return (torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags) and not is_index


def resolve_operator(key: str, device: torch.device) -> Operator:
    """Return the operator that `key` names, ready for `device`."""
    function = _functions().get(key)
    if function is not None:
        return Operator(key, function, None)
    if key in CONTROL_FLOW:
        return Operator(key, CONTROL_FLOW[key].run, None)
    if key in _KERNELS:
        portable, kernel = _KERNELS[key]
        if device.type == "cpu":
            return Operator(key, _CPU_KERNELS.get(key, kernel._op), kernel._schema, overload=kernel)
        return Operator(key, portable, kernel._schema)
    if key in _GROUPED:
        return Operator(key, *_GROUPED[key])
    if key in _GENERATOR:
        run, schema = _GENERATOR[key]
        return Operator(key, run if schema.arguments else partial(run, device), schema, random=True)
    overload = _overloads().get(key)
    if overload is None:
        raise ProtocolError(f"operator {key} is in the table, but torch {torch.__version__} here does not have it")
    return _on_device(key, overload, device)


def without_logsumexp(found: Operator) -> Operator:
    """Return what runs an attention of whose results the first alone is read."""
    return replace(found, run=attention.attention_output) if found.run is attention.attention else found


def _on_device(key: str, overload: OpOverload, device: torch.device) -> Operator:
    schema = overload._schema
    random = torch.Tag.nondeterministic_seeded in overload.tags
    run: Run = overload._op
    if device.type != "cpu" and (random or key in CPU_ONLY):
        run = _as_on_cpu(overload, device)
    return Operator(key, run, schema, random, _makes_tensors(schema), overload)


def _makes_tensors(schema: FunctionSchema) -> bool:
    """Say whether a call must be told the device: it takes one, and has no tensor to take it from."""
    takes_device = any(argument.name == "device" for argument in schema.arguments)
    return takes_device and not any("Tensor" in str(argument.type) for argument in schema.arguments)


# --- plain numbers ---------------------------------------------------------------------------------------


def _in_int64(function: Run) -> Run:
    """Bound results, so that a chain of multiplications cannot grow numbers that fill the memory."""

    @wraps(function)
    def bounded(*numbers: Any) -> Any:
        result = function(*numbers)
        if type(result) is int and not -_INT64 <= result < _INT64:
            raise OverflowError(f"{function.__name__} of {numbers} leaves the range of 64-bit integers")
        return result

    return bounded


def _power(base: Any, exponent: Any) -> Any:
    if type(base) is int and type(exponent) is int and base not in (0, 1, -1) and exponent > 63:
        raise OverflowError(f"{base} ** {exponent} leaves the range of 64-bit integers")
    return operator.pow(base, exponent)


def _left_shift(number: Any, count: Any) -> Any:
    if count > 63:
        raise OverflowError(f"{number} << {count} leaves the range of 64-bit integers")
    return operator.lshift(number, count)


_OPERATOR_FUNCTIONS: tuple[Run, ...] = (
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg,
    operator.pos, operator.abs, operator.and_, operator.or_, operator.xor, operator.not_, operator.rshift,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
)  # fmt: skip
_ROUNDING_FUNCTIONS: tuple[Run, ...] = (math.ceil, math.floor, math.trunc)
_MATH_FUNCTIONS: tuple[Run, ...] = (
    math.sqrt, math.cos, math.cosh, math.sin, math.sinh, math.tan, math.tanh,
    math.asin, math.acos, math.atan, math.log2,
)  # fmt: skip
_SYMBOLIC_FUNCTIONS: tuple[Run, ...] = (
    torch.sym_int, torch.sym_float, torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_ite, torch.sym_sum,
)  # fmt: skip


@cache
def _functions() -> dict[str, Run]:
    known: dict[str, Run] = {"getitem": operator.getitem, "builtins.round": round}
    known |= {f"operator.{function.__name__}": _in_int64(function) for function in _OPERATOR_FUNCTIONS}
    known |= {"operator.pow": _in_int64(_power), "operator.lshift": _in_int64(_left_shift)}
    known |= {f"math.{function.__name__}": function for function in _ROUNDING_FUNCTIONS + _MATH_FUNCTIONS}
    known |= {f"torch.{function.__name__}": _in_int64(function) for function in _SYMBOLIC_FUNCTIONS}
    known |= {f"torch._sym_{function.__name__}": function for function in _MATH_FUNCTIONS}
    return {key: known[key] for key in FUNCTIONS}


# --- ATen ------------------------------------------------------------------------------------------------


@cache
def _overloads() -> dict[str, OpOverload]:
    """Return the operators of the table that this torch has, by key."""
    found: dict[str, OpOverload] = {}
    for key in ATEN:
        _, packet, overload = key.split(".")
        candidate = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if isinstance(candidate, OpOverload):
            found[key] = candidate
    return found


def _as_on_cpu(overload: OpOverload, device: torch.device) -> Run:
    """Return `overload` run on the CPU: it draws from the CPU's generator, or has no other kernel."""
    schema = read_schema(overload)
    makes_tensors = _makes_tensors(overload._schema)
    returns_argument = any(result.form == "self" for result in schema.results)

    def run(*args: Any, **kwargs: Any) -> Any:
        if makes_tensors:
            kwargs["device"] = "cpu"
        here, named = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), (args, kwargs))
        result = overload._op(*here, **named)
        for place in schema.writes:
            schema.argument(place, args, kwargs).copy_(schema.argument(place, here, named))
        if returns_argument:
            return schema.argument(schema.writes[0], args, kwargs)
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), result)

    return run


# --- operators of our own --------------------------------------------------------------------------------

_KERNELS: Mapping[str, tuple[Run, OpOverload]] = MappingProxyType(
    {
        "genie.attention": (
            attention.attention,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        ),
        "genie.attention_backward": (
            attention.attention_backward,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
        ),
        "genie.lstm_layer": (lstm.lstm_layer, torch.ops.aten.mkldnn_rnn_layer.default),
        "genie.lstm_layer_backward": (lstm.lstm_layer_backward, torch.ops.aten.mkldnn_rnn_layer_backward.default),
    }
)
"""What each is on any device, and the kernel of PyTorch's that it is on a CPU."""

_CPU_KERNELS: Mapping[str, Run] = MappingProxyType({"genie.lstm_layer": lstm.lstm_layer_on_cpu})
"""What runs that kernel, where it is not called bare."""

_GROUPED: Mapping[str, tuple[Run, FunctionSchema]] = MappingProxyType(
    {
        "genie.grouped_mm": (grouped_mm.grouped_mm, grouped_mm.SCHEMA),
        "genie.grouped_mm_backward": (grouped_mm.grouped_mm_backward, grouped_mm.BACKWARD_SCHEMA),
    }
)

_GENERATOR: Mapping[str, tuple[Run, FunctionSchema]] = MappingProxyType(
    {
        "genie.generator_state": (generator.generator_state, generator.STATE_SCHEMA),
        "genie.set_generator_state": (generator.set_generator_state, generator.SET_STATE_SCHEMA),
    }
)
