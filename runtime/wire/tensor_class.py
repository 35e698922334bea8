"""Tensor classes: what the bytes of a tensor are counted under, wherever they travel."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

TensorClass: TypeAlias = Literal["weight", "kv_cache", "activation", "input", "output", "gradient"]

COUNTED = (*get_args(TensorClass), "control")
"""All classes of the byte counters: `control` is what is not a tensor's bytes: headers, ids, shapes, programs."""
