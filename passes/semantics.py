"""The vocabulary of what values mean: roles, residency, and the one typed record that a graph node carries.

A wrong fact costs time; it never changes a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch.fx import Node

META_KEY = "genie"
"""Where a node keeps its `Facts`: `node.meta["genie"]`."""


class Role(Enum):
    """What a value is to the model."""

    WEIGHT = "weight"
    BUFFER = "buffer"
    KV_CACHE = "kv_cache"
    TOKEN_IDS = "token_ids"
    POSITION = "position"
    MASK = "mask"
    ACTIVATION = "activation"
    LOGITS = "logits"
    LOSS = "loss"
    GRADIENT = "gradient"
    CONSTANT = "constant"
    RNG = "rng"
    INPUT = "input"
    OUTPUT = "output"


class Residency(Enum):
    """How long a value lives in the daemon."""

    RESIDENT = "resident"  # between calls: sent once, or made there and kept
    PER_CALL = "per_call"  # arrives with a call and dies with it
    TRANSIENT = "transient"  # made and used up inside one call
    RETURNED = "returned"  # a result: stays until the client lets go of it, fetched if read


@dataclass(frozen=True)
class Facts:
    """What the passes know of one value; `nbytes` is None where a symbolic size leaves it open."""

    role: Role
    residency: Residency
    nbytes: int | None = None
    evidence: tuple[str, ...] = ()


def facts_of(node: Node) -> Facts | None:
    """Return what is known of a node, None before any pass looked at it."""
    facts = node.meta.get(META_KEY)
    return facts if isinstance(facts, Facts) else None


def annotate(facts: Mapping[Node, Facts]) -> bool:
    """Write facts onto their nodes; say whether any node learned something new."""
    changed = False
    for node, known in facts.items():
        changed = changed or facts_of(node) != known
        node.meta[META_KEY] = known
    return changed


def nbytes_of(node: Node) -> int | None:
    """Return the size of a node's tensor; None for symbolic sizes and for values that are no tensor."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not all(isinstance(size, int) for size in value.shape):
        return None
    return value.numel() * value.element_size()
