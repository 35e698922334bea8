"""A compiled graph takes a local tensor and a remote one in the same place: it is compiled once for both.

Dynamo compiles a function anew for each type that an argument has. Here the graph is traced with plain tensors,
whatever came, and the guards on its inputs are widened: a loop in which each argument is local now, and remote then,
stays with one compilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.fake import unset_fake_temporarily
from dynamo_genie.torch_internals.input_guards import accept_all_kinds, example_values, graph_inputs


def take_any_kind(gm: GraphModule, example_inputs: Sequence[Any]) -> list[Any]:
    """Widen the guards on a graph's inputs; return the inputs with which it is to be traced, all plain.

    Parameters, what modules hold, and leaves that autograd keeps gradients on stay what they are: a gradient belongs
    where its leaf is.
    """
    movable = [position for position, value in graph_inputs(gm).items() if _is_movable(value)]
    accept_all_kinds(gm, movable, "carrier", _stand_ins)
    fakes = example_values(gm)
    return [_plain(fakes[i]) if isinstance(value, RemoteTensor) else value for i, value in enumerate(example_inputs)]


def _is_movable(value: torch.Tensor) -> bool:
    if type(value) not in (torch.Tensor, RemoteTensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return not (value.requires_grad and value.is_leaf) and not value.is_conj() and not value.is_neg()


def _stand_ins(value: torch.Tensor) -> list[torch.Tensor]:
    """Return a tensor of the kind that `value` is not."""
    with unset_fake_temporarily(), torch.inference_mode(value.is_inference()):
        other = (
            torch.empty((), dtype=value.dtype)
            if isinstance(value, RemoteTensor)
            else RemoteTensor((), (), value.dtype, None)
        )
        return [other.requires_grad_(value.requires_grad)]


def _plain(fake: RemoteTensor) -> torch.Tensor:
    """Return the fake tensor inside a fake remote tensor, with what autograd knows of the outer one."""
    plain = fake.carrier.detach().requires_grad_(fake.requires_grad)
    return plain if fake.is_leaf else torch.ops.aten.alias(plain)
