"""A layer of an LSTM: PyTorch's CPU kernel (`mkldnn_rnn_layer`), and the same for other devices, by `torch.lstm`.

Shapes: input [length, batch, features], hidden and cell [1, batch, hidden]; gates in the order of `nn.LSTM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Weights = tuple[Tensor, Tensor, Tensor, Tensor]


def lstm_layer_on_cpu(*arguments: Any) -> Any:
    """Run PyTorch's CPU kernel, which makes the workspace of its backward only where gradients are enabled."""
    train: bool = arguments[-1]
    with torch.set_grad_enabled(train):
        return torch.ops.aten.mkldnn_rnn_layer.default(*arguments)


def lstm_layer(
    input: Tensor,
    weight0: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    weight3: Tensor,
    hx_: Tensor,
    cx_: Tensor,
    reverse: bool,
    batch_sizes: Sequence[int],
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    bidirectional: bool,
    batch_first: bool,
    train: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, hidden and cell state of one direction of one layer, and an empty workspace."""
    _require_plain(batch_sizes)
    weights = (weight0, weight1, weight2, weight3)
    return *_forward(input, weights, hx_, cx_, reverse, has_biases), input.new_empty(0, dtype=torch.uint8)


def lstm_layer_backward(
    input: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    weight3: Tensor,
    weight4: Tensor,
    hx_: Tensor,
    cx_tmp: Tensor,
    output: Tensor,
    hy_: Tensor,
    cy_: Tensor,
    grad_output: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    reverse: bool,
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    train: bool,
    bidirectional: bool,
    batch_sizes: Sequence[int],
    batch_first: bool,
    workspace: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of input, weights, hidden and cell state; the layer is computed again for them."""
    _require_plain(batch_sizes)
    with torch.enable_grad():
        given = [it.detach().requires_grad_() for it in (input, weight1, weight2, weight3, weight4, hx_, cx_tmp)]
        data, w1, w2, w3, w4, hx, cx = given
        results = _forward(data, (w1, w2, w3, w4), hx, cx, reverse, has_biases)
        gradients = [
            torch.zeros_like(result) if grad is None else grad
            for result, grad in zip(results, (grad_output, grad_hy, grad_cy), strict=True)
        ]
        return torch.autograd.grad(results, given, gradients, materialize_grads=True)


def _forward(
    data: Tensor, weights: Weights, hx: Tensor, cx: Tensor, reverse: bool, has_biases: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sequence = data.flip(0) if reverse else data
    state = (hx.reshape(1, *hx.shape[-2:]), cx.reshape(1, *cx.shape[-2:]))
    used = list(weights) if has_biases else list(weights[:2])
    output, hy, cy = torch.lstm(sequence, state, used, has_biases, 1, 0.0, False, False, False)
    return output.flip(0) if reverse else output, hy.reshape(hx.shape), cy.reshape(cx.shape)


def _require_plain(batch_sizes: Sequence[int]) -> None:
    if len(batch_sizes):
        raise NotImplementedError("an LSTM over packed sequences runs on a CPU only; pad the sequences instead")
