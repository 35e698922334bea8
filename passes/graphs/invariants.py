"""Invariants of all passes: the graph stays well-formed, its values keep their shape and type, facts are only added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.semantics import Facts, facts_of, size_hint


class BrokenInvariant(RuntimeError):
    """A pass did what no pass may do: its own fault, not that of the graph. The message names pass and node."""


@dataclass(frozen=True)
class Snapshot:
    """A graph as a pass found it: its calls, the descriptions of its values, and what was known of them."""

    calls: Mapping[Node, tuple[object, ...]]
    values: Mapping[Node, tuple[object, ...]]
    facts: Mapping[Node, Facts]

    @classmethod
    def of(cls, gm: GraphModule) -> Snapshot:
        """Return the graph as it is now."""
        nodes = list(gm.graph.nodes)
        return cls(
            {node: (node.op, node.target, node.args, node.kwargs) for node in nodes},
            {node: _description(node) for node in nodes},
            {node: facts_of(node) for node in nodes},
        )

    def with_facts(self) -> Snapshot:
        """Return the same graph with what is known of it now."""
        return replace(self, facts={node: facts_of(node) for node in self.calls})


def check_untouched(name: str, before: Snapshot, after: Snapshot) -> None:
    """Check that an analysis left a graph alone.

    Raises:
        BrokenInvariant: It changed a call or a value, or wrote facts itself instead of returning them.
    """
    if list(before.calls) != list(after.calls):
        odd = next(iter(before.calls.keys() ^ after.calls.keys()), None)
        raise BrokenInvariant(f"pass '{name}' only looks, and yet it added, removed or moved nodes ({odd})")
    for node, call in before.calls.items():
        if any(old is not new for old, new in zip(call, after.calls[node], strict=True)):
            raise BrokenInvariant(f"pass '{name}' only looks, and yet it changed what '{node.name}' calls")
        if before.facts[node] is not after.facts[node] and before.facts[node] != after.facts[node]:
            raise BrokenInvariant(f"pass '{name}' wrote facts on '{node.name}' itself; return them instead")
    check_values(name, before, after)


def check_values(name: str, before: Snapshot, after: Snapshot) -> None:
    """Check that every value that is still there has the shape, type and device it had.

    Raises:
        BrokenInvariant: A pass changed `meta["val"]` of a node.
    """
    for node, was in before.values.items():
        now = after.values.get(node, was)
        if was != now:
            raise BrokenInvariant(f"pass '{name}' changed meta['val'] of '{node.name}' from {was} to {now}")


def check_graph(name: str, gm: GraphModule) -> None:
    """Check that a graph is well-formed.

    Raises:
        BrokenInvariant: It is not; the message has the node that `Graph.lint` complained of.
    """
    try:
        gm.graph.lint()
    except RuntimeError as error:
        raise BrokenInvariant(f"pass '{name}' left a graph that is not well-formed: {error}") from error


def _description(node: Node) -> tuple[object, ...]:
    """Return what must not change of a node's value, in numbers: comparing symbols would add guards."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return (type(value).__name__,)
    return (value.dtype, value.device, *map(size_hint, value.shape))
