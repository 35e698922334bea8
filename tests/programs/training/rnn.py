"""Sequences of unequal length: a bidirectional LSTM on packed input; a GRU that carries its state over time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = self.lstm(packed)
        padded, _ = pad_packed_sequence(hidden, batch_first=True)
        return self.head(padded)


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 8, batch_first=True)
        self.cell = nn.LSTMCell(8, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        out, state = self.gru(x, state)
        h = c = torch.zeros_like(out[:, 0])
        for t in range(out.size(1)):
            h, c = self.cell(out[:, t], (h, c))
        return self.head(out + h[:, None]), state


def tag(backend: str) -> dict[str, Any]:
    model = Tagger()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
    sentences = [torch.randint(1, 20, (length,)) for length in (7, 3, 5)]
    ids, lengths = pad_sequence(sentences, batch_first=True), torch.tensor([len(s) for s in sentences])
    tags = torch.where(ids > 0, ids % 5, -100)
    losses = []
    for _ in range(4):
        logits = compiled(ids, lengths)
        loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "tags": compiled(ids, lengths).argmax(-1).tolist(), "weights": model.state_dict()}


def forecast(backend: str) -> dict[str, Any]:
    model = Forecaster()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, nesterov=True)
    signal = torch.sin(torch.arange(40) / 3).view(2, 20, 1)
    state, losses = torch.zeros(1, 2, 8), []
    for start in range(0, 16, 4):
        predicted, state = compiled(signal[:, start : start + 4], state.detach())
        loss = F.smooth_l1_loss(predicted, signal[:, start + 1 : start + 5])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "state": state, "weights": model.state_dict()}


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(5)
    return {"tagger": tag(backend), "forecaster": forecast(backend)}
