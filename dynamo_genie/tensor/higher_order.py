"""Remote tensors as operands of higher-order operators (branches, loops, flex attention).

PyTorch dispatches those by themselves: tensor subclasses are refused where no rule is registered for them. While a
graph is captured, the carrier of a remote operand takes its place; outside compiled code, an operator is what its dense
form is, operator by operator, so that a branch reads its truth value.
"""

from __future__ import annotations

from typing import Any

import torch

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.higher_order import dense_form, rewrite_operands
from dynamo_genie.torch_internals.pytree import tree_map_only

_DENSE = tuple(
    getattr(torch.ops.higher_order, name)
    for name in "cond while_loop scan map_impl invoke_subgraph flex_attention".split()
)
_TRACED = (*_DENSE, torch.ops.higher_order.auto_functionalized_v2)


def take_remote_operands() -> None:
    """Register what higher-order operators do with remote tensors; asked for again, do nothing."""
    for operator in _DENSE:
        if RemoteTensor not in operator.python_key_table:
            operator.py_impl(RemoteTensor)(dense_form(operator))

    for operator in _TRACED:
        rewrite_operands(operator, _carriers)


def _carriers(operands: Any) -> Any:
    """Return operands with carriers in the place of remote tensors that are traced."""
    return tree_map_only(RemoteTensor, lambda it: it.carrier if it.handle is None else it, operands)
