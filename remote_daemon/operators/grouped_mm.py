"""Matrix products of groups of rows, each with a matrix of its own: the experts of a mixture-of-experts layer.

Plain products, one a group, so that every device runs them and rounds as the groups would alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dynamo_genie.torch_internals.operators import parse_schema

SCHEMA = parse_schema("genie::grouped_mm(Tensor input, Tensor weight, Tensor offs) -> Tensor")
BACKWARD_SCHEMA = parse_schema(
    "genie::grouped_mm_backward(Tensor input, Tensor weight, Tensor offs, Tensor grad_output) -> (Tensor, Tensor)"
)


def grouped_mm(input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """Return the products of `input`'s groups of rows with their matrices.

    Args:
        input: Rows sorted by group.  # [rows, in]
        weight: One matrix a group.  # [groups, in, out]
        offs: Where each group ends.  # [groups]
    """
    out = input.new_zeros(input.size(0), weight.size(2))
    for group, rows in _groups(offs):
        torch.mm(input[rows], weight[group], out=out[rows])
    return out


def grouped_mm_backward(
    input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of `grouped_mm` in `input` and `weight`."""
    grad_input, grad_weight = torch.zeros_like(input), torch.zeros_like(weight)
    for group, rows in _groups(offs):
        torch.mm(grad_output[rows], weight[group].t(), out=grad_input[rows])
        torch.mm(input[rows].t(), grad_output[rows], out=grad_weight[group])
    return grad_input, grad_weight


def _groups(offs: torch.Tensor) -> Iterator[tuple[int, slice]]:
    start = 0
    for group, end in enumerate(offs.tolist()):
        if start != end:
            yield group, slice(start, end)
        start = end
