"""Portable operators: functions that stand in a graph for operators of one kind of device. Knows nothing of daemons.

A daemon on a CPU runs the very kernel that eager PyTorch would run there; one on an accelerator runs plain portable
mathematics with the same results (output, logsumexp).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten


def portable_attention(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.attention" in a graph: (q, k, v, dropout_p, is_causal, *, attn_mask, scale) -> (out, lse)."""
    return aten._scaled_dot_product_flash_attention_for_cpu.default(*args, **kwargs)


def portable_attention_backward(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.attention_backward" in a graph: gradients of `portable_attention` in q, k and v."""
    return aten._scaled_dot_product_flash_attention_for_cpu_backward.default(*args, **kwargs)


def portable_grouped_mm(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.grouped_mm" in a graph: (input, weight, offs) -> out, one matrix product a group of rows."""
    return torch.ops.transformers.grouped_mm_fallback.default(*args, **kwargs)


def portable_grouped_mm_backward(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.grouped_mm_backward": gradients of `portable_grouped_mm` in input and weight."""
    return torch.ops.transformers.grouped_mm_fallback_backward.default(*args, **kwargs)


def portable_lstm_layer(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.lstm_layer" in a graph: what PyTorch makes of an LSTM's layer on a CPU."""
    return aten.mkldnn_rnn_layer.default(*args, **kwargs)


def portable_lstm_layer_backward(*args: Any, **kwargs: Any) -> Any:
    """Stand for "genie.lstm_layer_backward" in a graph: gradients of `portable_lstm_layer`."""
    return aten.mkldnn_rnn_layer_backward.default(*args, **kwargs)


def portable_generator_state() -> torch.Tensor:
    """Stand for "genie.generator_state" in a graph: the state of the CPU's generator, from which numbers are drawn."""
    return torch.get_rng_state()


def portable_set_generator_state(state: torch.Tensor) -> None:
    """Stand for "genie.set_generator_state" in a graph: draw as from this state on."""
    torch.set_rng_state(state)


PORTABLE_REPLACEMENTS: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        aten._scaled_dot_product_flash_attention_for_cpu.default: portable_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: portable_attention_backward,
        aten.mkldnn_rnn_layer.default: portable_lstm_layer,
        aten.mkldnn_rnn_layer_backward.default: portable_lstm_layer_backward,
    }
)
"""What replaces each operator that only one kind of device has."""

PORTABLE_KEYS: Mapping[Any, str] = MappingProxyType(
    {
        portable_attention: "genie.attention",
        portable_attention_backward: "genie.attention_backward",
        portable_grouped_mm: "genie.grouped_mm",
        portable_grouped_mm_backward: "genie.grouped_mm_backward",
        portable_lstm_layer: "genie.lstm_layer",
        portable_lstm_layer_backward: "genie.lstm_layer_backward",
        portable_generator_state: "genie.generator_state",
        portable_set_generator_state: "genie.set_generator_state",
    }
)
"""The key of each portable operator in the table of operators."""


def draws_random_numbers(target: Any) -> bool:
    """Say whether running the target of a call draws from a generator, or touches its state.

    Portable attention never does: it has no dropout.
    """
    if target in (portable_generator_state, portable_set_generator_state):
        return True
    if not isinstance(target, OpOverload) or target in PORTABLE_REPLACEMENTS:
        return False
    return torch.Tag.nondeterministic_seeded in target.tags
