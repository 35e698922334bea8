"""Arguments and operator names, lowered from torch's terms to those of a Program."""

from __future__ import annotations

import re
from typing import Any

import torch

from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.passes.graphs.portable_operators import PORTABLE_KEYS, PORTABLE_REPLACEMENTS
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import OPERATORS
from dynamo_genie.runtime.wire.tensor import Dtype, InlineTensor
from dynamo_genie.tensors import WIRE_DTYPES, dense_for_wire, spec_of, tensor_bytes
from dynamo_genie.torch_internals.operators import HigherOrderOperator, OpOverload

HANDLED_BY_WORKER = frozenset({"device", "pin_memory"})
"""Keyword arguments that a Program never carries: where a value lives is the daemon's business."""

_FRAME = re.compile(r'^\s*(File ".*", line \d+, in .*)\n\s*(.*)$', re.MULTILINE)


def source_line(stack_trace: str | None) -> str | None:
    """Return the innermost line of a stack trace, as 'File "x.py", line 3, in forward: code'."""
    frames = _FRAME.findall(stack_trace or "")
    return f"{frames[-1][0]}: {frames[-1][1]}" if frames else None


def unsupported(what: str, line: str | None) -> UnsupportedOperator:
    """Return the error that names an operator (or input) no daemon runs, its source line and the remedy."""
    place = f" ({line})" if line else ""
    return UnsupportedOperator(
        f"{what} cannot run in a daemon{place}. Keep it on the client: with the option unsupported='client', or in a "
        "function decorated with @torch.compiler.disable, which splits the graph there",
        what,
    )


def operator_key(target: Any, line: str | None) -> str:
    """Return the key of an FX target in the table of operators, or raise `UnsupportedOperator`."""
    key = PORTABLE_KEYS.get(PORTABLE_REPLACEMENTS.get(target, target)) or _name(target)
    if key not in OPERATORS:
        raise unsupported(f"operator {key}", line)
    return key


def is_in_table(target: OpOverload) -> bool:
    """Say whether a daemon may be asked to run an operator."""
    return (PORTABLE_KEYS.get(PORTABLE_REPLACEMENTS.get(target, target)) or _name(target)) in OPERATORS


def is_supported(target: Any) -> bool:
    """Say whether a daemon runs an FX target; regions are inlined before."""
    return _name(target) in OPERATORS or target is torch.ops.higher_order.invoke_subgraph


def _name(target: Any) -> str:
    if isinstance(target, HigherOrderOperator):
        return f"higher_order.{target}"
    if isinstance(target, OpOverload):
        return str(target)
    module = getattr(target, "__module__", None) or "?"
    name = getattr(target, "__name__", repr(target))
    if module == "_operator":
        return "getitem" if name == "getitem" else f"operator.{name}"
    return f"{module}.{name}"


def dtype_name(dtype: torch.dtype) -> Dtype:
    """Return the wire name of a dtype, or raise `UnsupportedOperator`."""
    name = WIRE_DTYPES.get(dtype)
    if name is None:
        raise unsupported(f"dtype {dtype}", None)
    return name


def lower_leaf(value: Any, key: str, line: str | None) -> p.Argument:
    """Return a single argument that is neither a graph value nor a list."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        return p.ComplexNumber(value.real, value.imag)
    if isinstance(value, torch.dtype):
        return p.DtypeName(dtype_name(value))
    if isinstance(value, torch.device):
        return None
    if value is torch.strided:
        return p.LayoutName("strided")
    if isinstance(value, torch.memory_format):
        return p.MemoryFormatName(str(value).removeprefix("torch."))  # type: ignore[arg-type]
    raise unsupported(f"operator {key} with an argument of type {type(value).__name__} ({value})", line)


def lower_constant(tensor: torch.Tensor) -> InlineTensor:
    """Return a small tensor of the graph as data."""
    dtype_name(tensor.dtype)  # raises where it cannot travel
    dense = dense_for_wire(tensor.cpu()).contiguous()
    return InlineTensor(spec_of(dense), bytes(tensor_bytes(dense)))
