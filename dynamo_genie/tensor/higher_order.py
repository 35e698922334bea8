"""Remote tensors as operands of higher-order operators (branches, loops, flex attention) outside compiled code.

PyTorch dispatches those by themselves: tensor subclasses are refused where no rule is registered for them. Here an
operator is what its dense form is, operator by operator, so that a branch reads its truth value.
"""

from __future__ import annotations

import torch

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.higher_order import dense_form

_DENSE = tuple(
    getattr(torch.ops.higher_order, name)
    for name in "cond while_loop scan map_impl invoke_subgraph flex_attention".split()
)


def take_remote_operands() -> None:
    """Register what higher-order operators do with remote tensors; asked for again, do nothing."""
    for operator in _DENSE:
        if RemoteTensor not in operator.python_key_table:
            operator.py_impl(RemoteTensor)(dense_form(operator))
