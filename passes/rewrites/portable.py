"""Replaces operators that exist on one kind of device only by portable ones. Knows nothing of daemons.

Before::

    %sdpa = call_function[target=aten._scaled_dot_product_flash_attention_for_cpu.default](%q, %k, %v, 0.0, True)

After::

    %sdpa = call_function[target=portable_attention](%q, %k, %v, 0.0, True)

A daemon on a CPU runs the very kernel that eager PyTorch would run there; one on an accelerator runs plain portable
mathematics with the same results (output, logsumexp).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten


def portable_attention(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.attention" in a graph: (q, k, v, dropout_p, is_causal, *, attn_mask, scale) -> (out, lse)."""
    return aten._scaled_dot_product_flash_attention_for_cpu.default(*args, **kwargs)


def portable_attention_backward(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.attention_backward" in a graph: gradients of `portable_attention` in q, k and v."""
    return aten._scaled_dot_product_flash_attention_for_cpu_backward.default(*args, **kwargs)


def portable_grouped_mm(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.grouped_mm" in a graph: (input, weight, offs) -> out, one matrix product a group of rows."""
    return torch.ops.transformers.grouped_mm_fallback.default(*args, **kwargs)


def portable_grouped_mm_backward(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.grouped_mm_backward": gradients of `portable_grouped_mm` in input and weight."""
    return torch.ops.transformers.grouped_mm_fallback_backward.default(*args, **kwargs)


def portable_replacements() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what replaces each operator that only one kind of device has."""
    return {
        aten._scaled_dot_product_flash_attention_for_cpu.default: portable_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: portable_attention_backward,
    }


PORTABLE_KEYS: tuple[tuple[Callable[..., Any], str], ...] = (
    (portable_attention, "genie.attention"),
    (portable_attention_backward, "genie.attention_backward"),
    (portable_grouped_mm, "genie.grouped_mm"),
    (portable_grouped_mm_backward, "genie.grouped_mm_backward"),
)
"""The key of each portable operator in the table of operators."""


_FOREIGN: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("transformers.grouped_mm_fallback.default", portable_grouped_mm),
    ("transformers.grouped_mm_fallback_backward.default", portable_grouped_mm_backward),
)
"""Operators that other libraries register and that have a portable form; by name, since they may not be installed."""


def make_portable(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that no operator in it belongs to one kind of device."""
    replacements = portable_replacements()
    foreign = dict(_FOREIGN)
    modified = False
    for node in gm.graph.nodes:
        if node.op == "call_function" and node.target in replacements:
            node.target = replacements[node.target]
            modified = True
        elif isinstance(node.target, OpOverload) and str(node.target) in foreign:
            node.target = foreign[str(node.target)]
            modified = True
        elif node.target is torch.ops.prims.convert_element_type.default:  # what PyTorch's decompositions use
            node.target = aten._to_copy.default
            node.args, node.kwargs = (node.args[0],), {"dtype": node.args[1]}
            modified = True
    if modified:
        gm.graph.lint()
        gm.recompile()
    return PassResult(gm, modified)
