"""Recurrent layers, made of the operators that the CPU makes them of, in the same order.

That order stands in `aten/src/ATen/native/RNN.cpp`. PyTorch's own code asks for the device: on others than the CPU it
does not compute all steps of the input at once, and takes fused kernels for single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

_LSTM_MODE = 2
"""`ideep::LSTM`, as `mkldnn_rnn_layer` names what it runs."""

_WHOLE_LAYER_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

State = Any
"""The hidden state of a layer; of an LSTM with the cells."""


class Weights(NamedTuple):
    """The parameters of one layer in one direction; biases and the projection may be missing."""

    of_input: Tensor
    of_hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


Cell = Callable[[Tensor, State, Weights], State]
"""One step: takes what the input gives to the gates, and returns the next state."""

Layer = Callable[[Tensor, State, Weights, bool], tuple[Tensor, State]]
"""All steps of one direction: takes the input, and whether to go backwards; returns the outputs and the last state."""


# --- one step --------------------------------------------------------------------------------------------


def lstm_step(gates: Tensor, state: State, weights: Weights) -> State:
    """One step of an LSTM."""
    hidden, cells = state
    each = F.linear(hidden, weights.of_hidden, weights.hidden_bias).add_(gates).unsafe_chunk(4, 1)
    taken, kept, new, shown = each[0].sigmoid_(), each[1].sigmoid_(), each[2].tanh_(), each[3].sigmoid_()
    cells = (kept * cells).add_(taken * new)
    hidden = shown * cells.tanh()
    return (hidden if weights.projection is None else hidden @ weights.projection.t()), cells


def gru_step(gates: Tensor, hidden: State, weights: Weights) -> State:
    """One step of a GRU."""
    of_input = gates.unsafe_chunk(3, 1)
    of_hidden = F.linear(hidden, weights.of_hidden, weights.hidden_bias).unsafe_chunk(3, 1)
    reset = of_hidden[0].add_(of_input[0]).sigmoid_()
    update = of_hidden[1].add_(of_input[1]).sigmoid_()
    new = of_input[2].add(of_hidden[2].mul_(reset)).tanh_()
    return (hidden - new).mul_(update).add_(new)


def simple_step(activation: Callable[[Tensor], Tensor], gates: Tensor, hidden: State, weights: Weights) -> State:
    """One step of a plain recurrent layer."""
    return activation(F.linear(hidden, weights.of_hidden, weights.hidden_bias).add_(gates))


# --- all steps of a layer --------------------------------------------------------------------------------


def _each_step(cell: Cell, data: Tensor, state: State, weights: Weights, backwards: bool) -> tuple[Tensor, State]:
    steps = F.linear(data, weights.of_input, weights.input_bias).unbind(0)
    outputs = []
    for step in reversed(steps) if backwards else steps:
        state = cell(step, state, weights)
        outputs.append(_shown(state))
    return torch.stack(outputs[::-1] if backwards else outputs, 0), state


def _each_packed_step(
    sizes: Sequence[int], cell: Cell, data: Tensor, state: State, weights: Weights, backwards: bool
) -> tuple[Tensor, State]:
    """Of sequences that were packed, longest first, ever fewer are left at later steps."""
    steps = F.linear(data, weights.of_input, weights.input_bias).split(list(sizes))
    outputs: list[Tensor] = []
    if backwards:
        first, count = state, sizes[-1]
        state = _rows(first, 0, count)
        for step, size in zip(reversed(steps), reversed(sizes), strict=True):
            if size > count:
                state = _joined([state, _rows(first, count, size)])
            count = size
            state = cell(step, state, weights)
            outputs.insert(0, _shown(state))
        return torch.cat(outputs, 0), state
    ended: list[State] = []
    count = sizes[0]
    for step, size in zip(steps, sizes, strict=True):
        if size < count:
            ended.insert(0, _rows(state, size, count))
            state = _rows(state, 0, size)
        count = size
        state = cell(step, state, weights)
        outputs.append(_shown(state))
    return torch.cat(outputs, 0), _joined([state, *ended])


def _whole_lstm_layer(
    follows: bool, data: Tensor, state: State, weights: Weights, backwards: bool
) -> tuple[Tensor, State]:
    """All steps by one kernel, as `aten/src/ATen/native/mkldnn/RNN.cpp` has them.

    Where gradients are enabled it is the kernel for training, though the module be in evaluation.
    """
    hidden, cells = state
    biases = weights.input_bias, weights.hidden_bias
    biased = biases[0] is not None
    if not biased:
        biases = torch.zeros_like(weights.of_input), torch.zeros_like(weights.of_hidden)
    out, hidden, cells, _ = aten.mkldnn_rnn_layer.default(
        data, weights.of_input, weights.of_hidden, *biases, hidden, cells, backwards, [], _LSTM_MODE, hidden.size(-1),
        1, biased, False, False, follows,
    )  # fmt: skip
    return out, (hidden, cells)


def _shown(state: State) -> Tensor:
    shown: Tensor = state[0] if isinstance(state, tuple) else state
    return shown


def _rows(state: State, start: int, end: int) -> State:
    if isinstance(state, tuple):
        return tuple(part.narrow(0, start, end - start) for part in state)
    return state.narrow(0, start, end - start)


def _joined(states: Sequence[State]) -> State:
    if isinstance(states[0], tuple):
        return tuple(torch.cat(parts, 0) for parts in zip(*states, strict=True))
    return torch.cat(list(states), 0)


# --- all layers ------------------------------------------------------------------------------------------


def _run(
    layer: Layer, data: Tensor, states: Sequence[State], weights: Sequence[Weights], both_ways: bool, dropout: float
) -> tuple[Tensor, list[State]]:
    """Run layers one after the other; `dropout` is 0 where none is wanted now."""
    directions = 2 if both_ways else 1
    last: list[State] = []
    for first in range(0, len(weights), directions):
        outputs = []
        for way in range(directions):
            out, state = layer(data, states[first + way], weights[first + way], way == 1)
            outputs.append(out)
            last.append(state)
        data = torch.cat(outputs, outputs[0].dim() - 1) if both_ways else outputs[0]
        if dropout and first + directions < len(weights):
            data = drop(data, dropout)
    return data, last


def drop(data: Tensor, p: float) -> Tensor:
    """Multiply by noise in the tensor's own dtype; between layers that is so in graphs for the CPU as well."""
    if p == 1:
        return data * torch.zeros((), dtype=data.dtype, device=data.device)
    return data * torch.empty_like(data).bernoulli_(1 - p).div_(1 - p)


def _by_layer(params: Sequence[Tensor], biased: bool, projects: bool) -> list[Weights]:
    count = 2 + 2 * biased + projects
    found = []
    for first in range(0, len(params), count):
        of_input, of_hidden, *rest = params[first : first + count]
        biases = rest[:2] if biased else (None, None)
        found.append(Weights(of_input, of_hidden, biases[0], biases[1], rest[-1] if projects else None))
    return found


def lstm(
    data: Tensor, hx: list[Tensor], params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run an LSTM; each layer by one kernel where the CPU does."""
    projects = hx[0].size(2) != hx[1].size(2)
    whole = not projects and data.dtype in _WHOLE_LAYER_DTYPES and data.numel() != 0 and torch.backends.mkldnn.enabled
    data = data.transpose(0, 1) if batch_first else data
    if whole:
        data, hx = data.contiguous(), [part.contiguous() for part in hx]
    layer: Layer = partial(_whole_lstm_layer, torch.is_grad_enabled()) if whole else partial(_each_step, lstm_step)
    states = list(zip(hx[0].unbind(0), hx[1].unbind(0), strict=True))
    weights = _by_layer(params, has_biases, projects)
    data, last = _run(layer, data, states, weights, bidirectional, dropout if train else 0.0)
    hidden, cells = zip(*last, strict=True)
    return data.transpose(0, 1) if batch_first else data, torch.stack(hidden, 0), torch.stack(cells, 0)


def packed_lstm(
    data: Tensor, batch_sizes: Tensor, hx: list[Tensor], params: list[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run an LSTM over packed sequences."""
    layer: Layer = partial(_each_packed_step, batch_sizes.tolist(), lstm_step)
    states = list(zip(hx[0].unbind(0), hx[1].unbind(0), strict=True))
    weights = _by_layer(params, has_biases, hx[0].size(2) != hx[1].size(2))
    data, last = _run(layer, data, states, weights, bidirectional, dropout if train else 0.0)
    hidden, cells = zip(*last, strict=True)
    return data, torch.stack(hidden, 0), torch.stack(cells, 0)


def one_state(
    cell: Cell, data: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run a recurrent layer that has no cells, by its step."""
    data = data.transpose(0, 1) if batch_first else data
    weights = _by_layer(params, has_biases, False)
    layer: Layer = partial(_each_step, cell)
    data, last = _run(layer, data, hx.unbind(0), weights, bidirectional, dropout if train else 0.0)
    return data.transpose(0, 1) if batch_first else data, torch.stack(last, 0)


def packed_one_state(
    cell: Cell, data: Tensor, batch_sizes: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same over packed sequences."""
    layer: Layer = partial(_each_packed_step, batch_sizes.tolist(), cell)
    weights = _by_layer(params, has_biases, False)
    data, last = _run(layer, data, hx.unbind(0), weights, bidirectional, dropout if train else 0.0)
    return data, torch.stack(last, 0)


def lstm_cell(
    data: Tensor, hx: list[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run one step of an LSTM."""
    hidden, cells = lstm_step(F.linear(data, w_ih, b_ih), tuple(hx), Weights(w_ih, w_hh, b_ih, b_hh))
    return hidden, cells


def gru_cell(
    data: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """Run one step of a GRU."""
    hidden: Tensor = gru_step(F.linear(data, w_ih, b_ih), hx, Weights(w_ih, w_hh, b_ih, b_hh))
    return hidden


TANH, RELU = partial(simple_step, torch.tanh), partial(simple_step, torch.relu)

RECURRENT: tuple[tuple[str, Any], ...] = (
    ("lstm.input", lstm),
    ("lstm.data", packed_lstm),
    *(
        (f"{name}.input", partial(one_state, cell))
        for name, cell in (("gru", gru_step), ("rnn_tanh", TANH), ("rnn_relu", RELU))
    ),
    *(
        (f"{name}.data", partial(packed_one_state, cell))
        for name, cell in (("gru", gru_step), ("rnn_tanh", TANH), ("rnn_relu", RELU))
    ),
    ("lstm_cell", lstm_cell),
    ("gru_cell", gru_cell),
)
"""Operators, and what runs them on the device."""
