"""A compiled graph takes a local tensor and a remote one in the same place: it is compiled once for both.

While Dynamo captures a graph for this backend, a remote tensor shows itself as a plain one of the same layout, so that
sizes, strides and what became dynamic are the same for both. Dynamo would still compile a function anew for each type
that an argument has: the guards on a graph's inputs are widened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.tensor.remote_tensor import RemoteTensor, is_captured_as_plain, share_memory
from dynamo_genie.torch_internals.fake import unset_fake_temporarily
from dynamo_genie.torch_internals.input_guards import accept_both_kinds, example_values


def take_any_kind(gm: GraphModule, example_inputs: Sequence[Any]) -> list[Any]:
    """Widen the guards on a graph's inputs; return the inputs with which it is to be traced, all plain.

    Parameters, what modules hold, and leaves that autograd keeps gradients on stay what they are: a gradient belongs
    where its leaf is. So does everything where remote inputs share memory: AOTAutograd sees that of plain ones alone,
    and compiles another graph for them. What Dynamo captured for another backend, which then called this one, is left
    as it is.
    """
    if not is_captured_as_plain():
        return list(example_inputs)
    widen = _is_movable if not share_memory(example_inputs) else _nothing
    accept_both_kinds(RemoteTensor, "carrier", widen, _stand_in)
    fakes = example_values(gm)
    return [fakes[i] if isinstance(value, RemoteTensor) else value for i, value in enumerate(example_inputs)]


def _nothing(value: torch.Tensor) -> bool:
    return False


def _is_movable(value: torch.Tensor) -> bool:
    if type(value) not in (torch.Tensor, RemoteTensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return not (value.requires_grad and value.is_leaf) and not value.is_conj() and not value.is_neg()


def _stand_in(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the kind that `value` is not."""
    with unset_fake_temporarily(), torch.inference_mode(value.is_inference()):
        other = (
            torch.empty((), dtype=value.dtype)
            if isinstance(value, RemoteTensor)
            else RemoteTensor((), (), value.dtype, None)
        )
        return other.requires_grad_(value.requires_grad)
