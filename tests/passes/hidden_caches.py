"""Small decoders that are not from `transformers`, each with its own way to keep keys and values.

All share one attention layer; what differs is `keep(past, new)`: what is stored, and what attention gets to read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, VOCAB, WINDOW = 16, 2, 50, 8
HEAD = WIDTH // HEADS


class Block(nn.Module):
    """One layer of attention, spelled out or whole, over whatever `keep` returns."""

    def __init__(self, whole: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.whole = whole

    def heads(self, hidden: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = hidden.shape
        parts = self.qkv(self.norm(hidden)).split(WIDTH, dim=-1)
        return tuple(part.view(batch, length, HEADS, HEAD).transpose(1, 2) for part in parts)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.whole:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            scores = query @ key.transpose(-2, -1) / math.sqrt(HEAD)
            scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
            mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    """Token ids and a cache to logits and a cache; layers keep what they read in ways of their own."""

    def __init__(self, n_layers: int = 2, whole: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block(whole) for _ in range(n_layers))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids: Tensor, past: Any, position: Tensor) -> tuple[Tensor, Any]:
        hidden = self.embed(ids)
        kept = []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.heads(hidden)
            key, value, mask, keep = self.keep(layer, past, key, value, position)
            hidden = hidden + block.attend(query, key, value, mask)
            kept.append(keep)
        return self.head(hidden), self.gather(kept)

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError

    def gather(self, kept: list[Any]) -> Any:
        return kept


class ListOfPairs(Decoder):
    """As in nanoGPT's forks: a list of (key, value), one a layer."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        if past is not None:
            key, value = (torch.cat([old, new], dim=2) for old, new in zip(past[layer], (key, value), strict=True))
        return key, value, None, (key, value)


class Dictionary(Decoder):
    """A dictionary with a name of its own for each tensor."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        if past is not None:
            key = torch.cat([past[f"a{layer}"], key], dim=2)
            value = torch.cat([past[f"b{layer}"], value], dim=2)
        return key, value, None, {f"a{layer}": key, f"b{layer}": value}

    def gather(self, kept: list[Any]) -> Any:
        return {name: tensor for part in kept for name, tensor in part.items()}


class TimeFirst(Decoder):
    """Stored [time, batch, head, dim], turned round for attention."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        pair = [tensor.permute(2, 0, 1, 3) for tensor in (key, value)]
        if past is not None:
            pair = [torch.cat([old, new], dim=0) for old, new in zip(past[layer], pair, strict=True)]
        key, value = (tensor.permute(1, 2, 0, 3) for tensor in pair)
        return key, value, None, tuple(tensor.contiguous() for tensor in pair)


class Fused(Decoder):
    """One tensor [2, batch, head, time, dim] a layer."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        both = torch.stack([key, value])
        if past is not None:
            both = torch.cat([past[layer], both], dim=3)
        return both[0], both[1], None, both


class Packed(Decoder):
    """Keys and values side by side in the last dimension, split before use."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        both = torch.cat([key, value], dim=-1)
        if past is not None:
            both = torch.cat([past[layer], both], dim=2)
        key, value = both.split(HEAD, dim=-1)
        return key, value, None, both


class Ring(Decoder):
    """A ring buffer: written in place at the position modulo its length."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        places = (position + torch.arange(key.shape[2])) % WINDOW
        for old, new in zip(past[layer], (key, value), strict=True):
            old[:, :, places] = new
        mask = torch.arange(WINDOW) <= position + key.shape[2] - 1
        return *past[layer], mask.view(1, 1, 1, -1), None


class Rolled(Decoder):
    """A window that moves: the oldest entry falls out on the left, the newest comes in on the right."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        pair = []
        for old, new in zip(past[layer], (key, value), strict=True):
            rolled = torch.cat([old[:, :, new.shape[2] :], new], dim=2)
            old.copy_(rolled)
            pair.append(rolled)
        return *pair, None, None


class InBuffers(Decoder):
    """Buffers of the module itself, written by position."""

    def __init__(self, n_layers: int = 2, whole: bool = True) -> None:
        super().__init__(n_layers, whole)
        for layer in range(n_layers):
            self.register_buffer(f"k{layer}", torch.zeros(1, HEADS, WINDOW, HEAD))
            self.register_buffer(f"v{layer}", torch.zeros(1, HEADS, WINDOW, HEAD))

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        pair = getattr(self, f"k{layer}"), getattr(self, f"v{layer}")
        places = position + torch.arange(key.shape[2])
        for old, new in zip(pair, (key, value), strict=True):
            old.index_copy_(2, places, new)
        return *pair, (torch.arange(WINDOW) <= position).view(1, 1, 1, -1), None


class Chosen(Decoder):
    """Written with a one-hot mask and `where`, with no scatter at all."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        here = (torch.arange(WINDOW) == position).view(1, 1, -1, 1)
        pair = [torch.where(here, new, old) for old, new in zip(past[layer], (key, value), strict=True)]
        return *pair, None, tuple(pair)


class Quantised(Decoder):
    """Eight-bit integers with a scale for each entry, both grown by `cat`."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        kept = []
        for index, new in enumerate((key, value)):
            scale = new.abs().amax(-1, keepdim=True) / 127
            codes = (new / scale).round().to(torch.int8)
            if past is not None:
                codes = torch.cat([past[layer][2 * index], codes], dim=2)
                scale = torch.cat([past[layer][2 * index + 1], scale], dim=2)
            kept += [codes, scale]
        key, value = (kept[i].to(torch.float32) * kept[i + 1] for i in (0, 2))
        return key, value, None, tuple(kept)


class TurnedOnReading(Decoder):
    """Keys are kept as they were projected and turned by their positions each time they are read."""

    def keep(self, layer: int, past: Any, key: Tensor, value: Tensor, position: Tensor) -> tuple[Any, ...]:
        if past is not None:
            key, value = (torch.cat([old, new], dim=2) for old, new in zip(past[layer], (key, value), strict=True))
        angles = torch.arange(key.shape[2]).view(-1, 1) / torch.arange(1, HEAD // 2 + 1)
        cos, sin = (torch.cat([wave, wave], -1) for wave in (angles.cos(), angles.sin()))
        left, right = key.chunk(2, dim=-1)
        return key * cos + torch.cat([-right, left], -1) * sin, value, None, (key, value)
