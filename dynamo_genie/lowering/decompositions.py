"""Decompositions of operators while a graph is captured: of those that no daemon is asked to run, and only those.

An operator that is in the table stays whole, because a decomposition rounds differently from the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamo_genie.passes.graphs.portable_operators import PORTABLE_REPLACEMENTS
from dynamo_genie.runtime.wire.operators import OPERATORS
from dynamo_genie.torch_internals.capture import core_decompositions, prim_decompositions
from dynamo_genie.torch_internals.operators import OperatorBase


def decomposition_table() -> dict[OperatorBase, Callable[..., Any]]:
    """Return PyTorch's decompositions of all operators that are neither in the table nor made portable."""
    known = {**prim_decompositions(), **core_decompositions()}
    return {
        operator: decompose
        for operator, decompose in known.items()
        if str(operator) not in OPERATORS and operator not in PORTABLE_REPLACEMENTS
    }
