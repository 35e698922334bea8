"""What PyTorch composes of other operators in a way that depends on the device: on ours it does as it does on the CPU.

So that a model gives the same bits here and there. PyTorch asks for the device where it chooses a kernel of attention
(`aten/src/ATen/native/transformers/sdp_utils_cpp.h`), in dropout and in recurrent layers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dynamo_genie.device.recurrent import RECURRENT, drop
from dynamo_genie.torch_internals.capture import is_tracing
from dynamo_genie.torch_internals.opaque import opaque

aten = torch.ops.aten

_FLASH_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute `scaled_dot_product_attention` with the kernel that the CPU would take."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -math.inf)
    options: dict[str, Any] = {"attn_mask": attn_mask, "scale": scale}
    if takes_flash(query, key, value, attn_mask, dropout_p, enable_gqa):
        out: Tensor = aten._scaled_dot_product_flash_attention_for_cpu.default(
            query, key, value, dropout_p, is_causal, **options
        )[0]
        return out
    whole: Tensor = aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return whole


def takes_flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, grouped: bool
) -> bool:
    """Say whether the CPU's flash kernel takes these, as `use_flash_attention_cpp` does."""
    each = query, key, value
    return (
        torch.backends.cuda.flash_sdp_enabled()
        and not dropout_p
        and query.dtype in _FLASH_DTYPES
        and all(tensor.dim() == 4 and tensor.dtype == query.dtype and tensor.stride(-1) == 1 for tensor in each)
        and query.size(-1) == key.size(-1) == value.size(-1)
        and query.size(0) == key.size(0) == value.size(0)
        and key.size(1) == value.size(1)
        and (query.size(1) % key.size(1) == 0 if grouped else query.size(1) == key.size(1))
        and query.size(2) != 0
        and key.size(2) == value.size(2) != 0
        and (mask is None or _fits(mask, query, key))
    )


def _fits(mask: Tensor, query: Tensor, key: Tensor) -> bool:
    if mask.requires_grad or mask.dim() not in (2, 4):
        return False
    whole = query.size(0), query.size(1), query.size(2), key.size(2)
    return all(size in (1, wanted) for size, wanted in zip(reversed(mask.shape), reversed(whole), strict=False))


def dropout(data: Tensor, p: float, train: bool) -> Tensor:
    """Drop elements as the CPU does, which multiplies by noise in the tensor's own dtype, forth and back.

    In a graph as in a graph for the CPU, where PyTorch puts one operator that keeps a mask.

    Raises:
        RuntimeError: `p` is no probability.
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p == 0 or not train or data.numel() == 0:
        return data
    if is_tracing():
        masked: Tensor = aten.native_dropout.default(data, p, train)[0]
        return masked
    return drop(data, p)


def pack_sequences(data: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """Put the steps of sequences one after another, without padding; how many sequences have a step stays on the CPU.

    Raises:
        RuntimeError: The lengths do not fall, or one is not above zero.
    """
    wanted = lengths.tolist()
    data = data.transpose(0, 1) if batch_first else data
    if not wanted or len(wanted) != data.size(1) or wanted[-1] <= 0 or sorted(wanted, reverse=True) != wanted:
        raise RuntimeError(
            f"lengths must be sorted in decreasing order, above 0, and one for each of {data.size(1)} sequences"
        )
    sizes = [sum(length > step for length in wanted) for step in range(wanted[0])]
    places = [step * data.size(1) + row for step, size in enumerate(sizes) for row in range(size)]
    rows = data.reshape(-1, *data.shape[2:])
    return rows.index_select(0, torch.tensor(places, device=data.device)), torch.tensor(sizes)


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int = 0,
    reduction: int = 1, zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """Compute `ctc_loss` by lengths as numbers, which the CPU makes of them, wherever the tensors of lengths are."""
    lengths = input_lengths.tolist(), target_lengths.tolist()
    loss: Tensor = aten.ctc_loss.IntList(log_probs, targets, *lengths, blank, reduction, zero_infinity)
    return loss


def is_left_aligned(data: Tensor, mask: Tensor) -> bool:
    """Say that padding cannot be left out by a nested tensor, of which there are none on the device.

    `torch.nn.TransformerEncoder` then computes with the padding, as it does where a mask has it in between.
    """
    return False


def singular_values(matrices: Tensor, *, driver: str | None = None) -> Tensor:
    """Compute singular values without vectors, unless a gradient wants these; of other classes PyTorch wants them."""
    values: Tensor = aten._linalg_svd.default(matrices, False, _follows(matrices), driver=driver)[1]
    return values


def eigenvalues(matrices: Tensor, UPLO: str = "L") -> Tensor:  # noqa: N803  # the schema's name
    """Compute eigenvalues of symmetric matrices, without vectors in the same way."""
    values: Tensor = aten._linalg_eigh.default(matrices, UPLO, _follows(matrices))[0]
    return values


def _follows(tensor: Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


COMPOSITES: tuple[tuple[str, Any], ...] = tuple(
    (name, opaque(function))
    for name, function in (
        ("scaled_dot_product_attention", attention),
        ("dropout", dropout),
        ("_pack_padded_sequence", pack_sequences),
        ("ctc_loss.Tensor", ctc_loss),
        ("_nested_tensor_from_mask_left_aligned", is_left_aligned),
        ("linalg_svdvals", singular_values),
        ("linalg_eigvalsh", eigenvalues),
        *RECURRENT,
    )
)
"""Operators, and what runs them on the device."""
