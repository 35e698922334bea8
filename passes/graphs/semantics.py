"""Semantic facts: the vocabulary of what values mean, and the one typed record that a graph node carries.

A wrong fact costs time; it never changes a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum

import torch
from torch.fx import Node

META_KEY = "genie"
"""Where a node keeps its `Facts`: `node.meta["genie"]`."""


class Role(Enum):
    """The role of a value: what it is to the model."""

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


class Phase(Enum):
    """The phase in which a value is made: what the model is doing there."""

    PREFILL = "prefill"  # a prompt of several tokens, no cache before it
    DECODE = "decode"  # one token (or a few) on top of a cache
    ENCODE = "encode"  # text or audio seen in both directions
    VISION = "vision"  # pixels
    CROSS_ATTENTION = "cross_attention"  # a decoder that looks at an encoder's result
    TRAINING_FORWARD = "training_forward"
    TRAINING_BACKWARD = "training_backward"
    OTHER = "other"


class Residency(Enum):
    """The residency of a value: how long it stays in the daemon."""

    PERSISTENT = "persistent"  # outlives sessions: weights, buffers, constants, known by their content
    SESSION = "session"  # kept from call to call: KV caches
    STEP = "step"  # arrives with a call, or is returned by it
    TRANSIENT = "transient"  # made and used up inside one call


@dataclass(frozen=True)
class Facts:
    """The facts that passes found on one value; None where nothing is known yet.

    Attributes:
        group: The name of the co-location group that the value belongs to.
        priority: Groups with a larger number are placed first.
        nbytes: Size of the value, with the sizes of the example that the graph was captured with.
        flops: Floating point operations that make it, a multiply-add counting two, with those same sizes.
        confidence: How sure the role is, from 0 to 1.
        evidence: Why, for people: what each pass that added something saw.
    """

    role: Role | None = None
    phase: Phase | None = None
    residency: Residency | None = None
    group: str | None = None
    priority: int | None = None
    nbytes: int | None = None
    flops: int | None = None
    dtype: str | None = None
    confidence: float | None = None
    evidence: tuple[str, ...] = ()

    def adding(self, more: Facts) -> Facts:
        """Return these facts and `more`; a field that is known keeps its value.

        Raises:
            ValueError: `more` contradicts what is known.
        """
        changes: dict[str, object] = {}
        for field in fields(Facts):
            known, new = getattr(self, field.name), getattr(more, field.name)
            if field.name == "evidence" or new is None or new == known:
                continue
            if known is not None:
                raise ValueError(f"{field.name} is {known} already and cannot become {new}")
            changes[field.name] = new
        news = tuple(line for line in more.evidence if line not in self.evidence)
        if news:
            changes["evidence"] = (*self.evidence, *news)
        return replace(self, **changes) if changes else self  # type: ignore[arg-type]  # names and types are the fields'


def facts_of(node: Node) -> Facts:
    """Return what is known of a node: nothing, before any pass looked at it."""
    facts = node.meta.get(META_KEY)
    return facts if isinstance(facts, Facts) else Facts()


def annotate(facts: Mapping[Node, Facts]) -> bool:
    """Add facts to their nodes; say whether any node learned something new.

    Raises:
        ValueError: A fact contradicts what is known of the node.
    """
    changed = False
    for node, more in facts.items():
        known = facts_of(node)
        try:
            both = known.adding(more)
        except ValueError as error:
            raise ValueError(f"{node.name}: {error}") from None
        changed = changed or both is not known
        node.meta[META_KEY] = both
    return changed


def nbytes_of(node: Node) -> int | None:
    """Return the size of a node's tensor at the example's sizes; None for sizes that depend on data, and no tensor."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    sizes = sizes_of(value)
    return None if sizes is None else math.prod(sizes) * value.element_size()


def dtype_of(node: Node) -> str | None:
    """Return the name of the dtype of a node's value, None where it is not a tensor."""
    value = node.meta.get("val")
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else None


def sizes_of(value: torch.Tensor) -> tuple[int, ...] | None:
    """Return a tensor's sizes at the example's values, None where one depends on data."""
    sizes = tuple(size_hint(size) for size in value.shape)
    return None if None in sizes else sizes  # type: ignore[return-value]  # no None is left


def size_hint(size: object) -> int | None:
    """Return a size as a number: the example's where it is symbolic, None where it depends on data."""
    if isinstance(size, torch.SymInt):
        hint = size.node.hint if size.node.has_hint() else None
        return None if hint is None else int(hint)
    assert isinstance(size, int)
    return size
