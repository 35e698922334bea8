"""Replaces operators that exist on one kind of device only by portable ones.

Before::

    %sdpa = call_function[target=aten._scaled_dot_product_flash_attention_for_cpu.default](%q, %k, %v, 0.0, True)

After::

    %sdpa = call_function[target=portable_attention](%q, %k, %v, 0.0, True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.graph_view import all_graphs
from dynamo_genie.passes.graphs.portable_operators import (
    PORTABLE_REPLACEMENTS,
    portable_grouped_mm,
    portable_grouped_mm_backward,
)
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

_FOREIGN: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "transformers.grouped_mm_fallback.default": portable_grouped_mm,
        "transformers.grouped_mm_fallback_backward.default": portable_grouped_mm_backward,
    }
)
"""Operators that other libraries register and that have a portable form; by name, since they may not be installed."""


def make_portable(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that no operator in it, or in a branch, belongs to one kind of device."""
    changed = [_rewrite(graph_module) for graph_module in all_graphs(gm)]
    return PassResult(gm, any(changed))


def _rewrite(gm: GraphModule) -> bool:
    modified = False
    for node in gm.graph.nodes:
        if node.op == "call_function" and node.target in PORTABLE_REPLACEMENTS:
            node.target = PORTABLE_REPLACEMENTS[node.target]
            modified = True
        elif isinstance(node.target, OpOverload) and str(node.target) in _FOREIGN:
            node.target = _FOREIGN[str(node.target)]
            modified = True
        elif node.target is torch.ops.prims.convert_element_type.default:  # what PyTorch's decompositions use
            node.target = aten._to_copy.default
            node.args, node.kwargs = (node.args[0],), {"dtype": node.args[1]}
            modified = True
    if modified:
        gm.graph.lint()
        gm.recompile()
    return modified
