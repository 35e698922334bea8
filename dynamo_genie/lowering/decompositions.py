"""Which operators are taken apart while a graph is captured: those that no daemon is asked to run, and only those.

An operator that is in the table stays whole, because a decomposition rounds differently from the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import core_aten_decompositions

from dynamo_genie.passes.rewrites.portable import portable_replacements
from dynamo_genie.runtime.wire.operators import OPERATORS


def decomposition_table() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return PyTorch's decompositions of all operators that are neither in the table nor made portable."""
    portable = portable_replacements()
    table = {**core_aten_decompositions(), **_further_decompositions()}
    return {
        operator: decompose
        for operator, decompose in table.items()
        if str(operator) not in OPERATORS and operator not in portable
    }


def _further_decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return decompositions of CPU-only operators that PyTorch does not count among the core ones."""
    aten = torch.ops.aten
    return dict(torch._decomp.get_decompositions([aten.mkldnn_rnn_layer.default]))
