"""Speech to characters: a spectrogram by `torch.stft`, convolutions and a GRU, CTC loss, a greedy decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LETTERS = "-abcdefgh"
STEPS = 4


class Recognizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv1d(33, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16), nn.GELU())
        self.gru = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, len(LETTERS))

    def forward(self, spectrogram: Tensor) -> Tensor:
        hidden, _ = self.gru(self.convolution(spectrogram).transpose(1, 2))
        return self.head(hidden).log_softmax(-1)


def spectrogram(wave: Tensor) -> Tensor:
    transformed = torch.stft(wave, n_fft=64, hop_length=16, window=torch.hann_window(64), return_complex=True)
    return (transformed.abs().square() + 1e-6).log()


def decode(log_probs: Tensor) -> list[str]:
    texts = []
    for row in log_probs.argmax(-1):
        text, previous = "", 0
        for index in row.tolist():
            if index not in (0, previous):
                text += LETTERS[index]
            previous = index
        texts.append(text)
    return texts


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(4)
    waves = torch.randn(3, 480)
    targets = torch.randint(1, len(LETTERS), (3, 6))
    target_lengths = torch.tensor([6, 4, 5])
    model = Recognizer()
    features = torch.compile(spectrogram, backend=backend)
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(STEPS):
        mel = features(waves + 0.01 * torch.randn_like(waves))
        mel = mel.masked_fill(torch.rand(mel.shape[1], 1) < 0.1, 0.0)
        log_probs = compiled(mel)
        lengths = torch.full((3,), log_probs.size(1))
        loss = F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, target_lengths, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        log_probs = compiled(features(waves))
    return {"losses": losses, "texts": decode(log_probs), "log_probs": log_probs, "weights": model.state_dict()}
