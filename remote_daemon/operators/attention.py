"""Attention for devices that lack PyTorch's CPU kernel: the same results, by other kernels or plain portable operators.

Shapes: query [batch, heads, q_len, head_dim], key and value [batch, kv_heads, kv_len, head_dim]; output like query,
logsumexp [batch, heads, q_len] in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the attention output and the logsumexp of its scores, as the CPU kernel does."""
    _refuse_dropout(dropout_p)
    scores = _scores(query, key, is_causal, attn_mask, scale)
    logsumexp = torch.logsumexp(scores, -1)
    weights = _weights(scores, logsumexp)
    output = weights @ _spread(value, query).to(weights.dtype)
    logsumexp = logsumexp.masked_fill(torch.isneginf(logsumexp), 0.0)  # as the CPU kernel has it for unseeing rows
    return torch.empty_like(query).copy_(output), _heads_inside(logsumexp)


def attention_output(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, None]:
    """Return the attention output alone, by the kernels that torch has for the device: they keep no scores."""
    if is_causal and attn_mask is not None:  # no kernel takes both
        return attention(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0], None
    _refuse_dropout(dropout_p)
    output = attend_by_torch(query, key, value, attn_mask, is_causal, scale)
    if attn_mask is not None:
        unseeing = ~attn_mask.any(-1, True) if attn_mask.dtype == torch.bool else attn_mask.isneginf().all(-1, True)
        output.masked_fill_(unseeing, 0.0)  # kernels differ there: NaN, a mean, or what the CPU kernel has
    return output, None


def attend_by_torch(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """Return `scaled_dot_product_attention`, laid out like the query; no fast kernel takes groups and a mask."""
    if mask is not None:
        key, value = _spread(key, query), _spread(value, query)
    output = F.scaled_dot_product_attention(
        query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=query.size(1) != key.size(1)
    )
    return output if output.stride() == query.stride() else torch.empty_like(query).copy_(output)


def attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `attention` in query, key and value."""
    _refuse_dropout(dropout_p)
    weights = _weights(_scores(query, key, is_causal, attn_mask, scale), logsumexp)
    wide = weights.dtype
    grad, q, k, v = grad_out.to(wide), query.to(wide), _spread(key, query).to(wide), _spread(value, query).to(wide)
    delta = (grad * out.to(wide)).sum(-1, keepdim=True)
    grad_scores = weights * (grad @ v.transpose(-2, -1) - delta) * _scale(query, scale)
    grads = (grad_scores @ k, grad_scores.transpose(-2, -1) @ q, weights.transpose(-2, -1) @ grad)
    return (
        _heads_inside(grads[0]).to(query.dtype),
        _heads_inside(_gather(grads[1], key)).to(key.dtype),
        _heads_inside(_gather(grads[2], value)).to(value.dtype),
    )


def _refuse_dropout(dropout_p: float) -> None:
    if dropout_p != 0.0:
        raise ValueError(f"portable attention has no dropout, but dropout_p is {dropout_p}")


def _heads_inside(values: Tensor) -> Tensor:
    """Lay values out as [batch, length, heads, ...] in memory, as the CPU kernel does; the shape stays."""
    return values.transpose(1, 2).contiguous().transpose(1, 2)


def _scale(query: Tensor, scale: float | None) -> float:
    return 1.0 / math.sqrt(query.size(-1)) if scale is None else scale


def _scores(query: Tensor, key: Tensor, is_causal: bool, attn_mask: Tensor | None, scale: float | None) -> Tensor:
    """Return the scaled and masked scores [batch, heads, q_len, kv_len], at least in float32."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(wide) @ _spread(key, query).to(wide).transpose(-2, -1)) * _scale(query, scale)
    if is_causal:
        seen = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        return scores.masked_fill(~attn_mask, -math.inf)
    return scores if attn_mask is None else scores + attn_mask.to(wide)


def _weights(scores: Tensor, logsumexp: Tensor) -> Tensor:
    """Return the softmax of the scores; a row that sees nothing has weights of zero."""
    weights = torch.exp(scores - logsumexp.unsqueeze(-1))
    return weights.masked_fill(torch.isneginf(scores), 0.0)


def _spread(grouped: Tensor, query: Tensor) -> Tensor:
    """Repeat the heads of key or value until there are as many as query has (grouped-query attention)."""
    repeats = query.size(1) // grouped.size(1)
    return grouped if repeats == 1 else grouped.repeat_interleave(repeats, 1)


def _gather(grad: Tensor, grouped: Tensor) -> Tensor:
    """Undo `_spread` on a gradient: sum over the heads that shared one head."""
    return grad if grad.size(1) == grouped.size(1) else grad.unflatten(1, (grouped.size(1), -1)).sum(2)
