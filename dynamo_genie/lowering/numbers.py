"""Numbers that a graph returns and only the data tells: they leave the daemon as tensors of one element.

Before::

    %n = aten._local_scalar_dense.default(%sum)
    return (%n, %scaled)

After::

    %n = aten._local_scalar_dense.default(%sum)
    %scalar_tensor = aten.scalar_tensor.default(%n, dtype=torch.int64)
    return (%scalar_tensor, %scaled)

The call reads them, as a program that gets a number must have it. Numbers that follow from the arguments of a call are
evaluated here, and never wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.lowering.output_shapes import shapes_of

_MARK = "genie_number"
"""Where a node says that a number is to be made of it again."""

_DTYPES: Mapping[type, torch.dtype] = MappingProxyType(
    {torch.SymInt: torch.int64, torch.SymFloat: torch.float64, torch.SymBool: torch.bool}
)


def return_numbers_as_tensors(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that it returns no number that depends on the data."""
    if not shapes_of(gm).depends_on_data:
        return PassResult(gm, modified=False)
    output = gm.graph.output_node()
    returned: Any = output.args[0]
    with gm.graph.inserting_before(output):
        results = [_as_tensor(value) for value in returned]
    output.args = (tuple(results),)
    gm.graph.lint()
    gm.recompile()
    return PassResult(gm, modified=True)


def numbers_of(gm: GraphModule) -> frozenset[int]:
    """Return the positions of the results of which the caller makes numbers."""
    returned: Any = gm.graph.output_node().args[0]
    return frozenset(i for i, value in enumerate(returned) if isinstance(value, Node) and _MARK in value.meta)


def _as_tensor(value: Any) -> Any:
    number = value.meta.get("val") if isinstance(value, Node) else None
    dtype = _DTYPES.get(type(number))
    if dtype is None:
        return value
    tensor = value.graph.call_function(torch.ops.aten.scalar_tensor.default, (value,), {"dtype": dtype})
    tensor.meta = {"stack_trace": value.meta.get("stack_trace"), _MARK: True}
    tensor.meta["val"] = torch.zeros((), dtype=dtype)
    return tensor
