"""A graph of a thousand nodes as a few dozen boxes: one for each layer or group on each device. Pure.

A layer is the part of the module path up to its first number (`transformer.h.3`), else its first two names. Weights and
caches belong to the box that uses them; the other inputs of a call, and its results, are boxes of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.explain.records import GroupReport
from dynamo_genie.passes.graphs.annotated_text import module_of
from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.semantics import Role, facts_of, nbytes_of

INPUTS, RESULTS = "inputs of the call", "results"

HELD = frozenset({Role.WEIGHT, Role.BUFFER, Role.CONSTANT, Role.KV_CACHE})


@dataclass(frozen=True)
class Box:
    """Some nodes drawn as one, in graph order."""

    report: GroupReport
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Arrow:
    """Values that go from one box to another: the boxes' positions, how many values, and how many bytes.

    `is_cut` says that the boxes are on different devices.
    """

    source: int
    target: int
    n_values: int
    nbytes: int
    is_cut: bool


@dataclass(frozen=True)
class Picture:
    """Boxes in graph order, and the arrows between them."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def contract(gm: GraphModule, devices: Mapping[str, str]) -> Picture:
    """Return `gm` as boxes, in the order in which their first operator runs.

    Args:
        gm: An annotated graph.
        devices: The device on which each node runs, by the node's name; may be empty.
    """
    place = _places(gm, devices)
    members: dict[tuple[str, str], list[Node]] = {}
    computed = [node for node in gm.graph.nodes if node.op == "call_function"]
    ends = [node for node in gm.graph.nodes if place[node][0] == INPUTS]
    for node in dict.fromkeys((*ends, *computed, *gm.graph.nodes)):
        members.setdefault(place[node], []).append(node)
    order = {key: position for position, key in enumerate(members)}
    boxes = tuple(Box(_report(key, nodes), tuple(nodes)) for key, nodes in members.items())
    return Picture(boxes, tuple(_arrows(gm, place, order)))


def layer_of(node: Node) -> str:
    """Return the name of the layer that a node belongs to; its group, or "", where no module is known."""
    names = module_of(node).split(".")
    for position, name in enumerate(names):
        if name.isdecimal():
            return ".".join(names[: position + 1])
    return ".".join(names[:2]) or facts_of(node).group or ""


def _places(gm: GraphModule, devices: Mapping[str, str]) -> dict[Node, tuple[str, str]]:
    layers = _layers(gm)
    place = {node: (layer, devices.get(node.name, "")) for node, layer in layers.items()}
    results = set(result_nodes(gm))
    for node in gm.graph.nodes:
        if node.op == "output":
            place[node] = (RESULTS, "")
        elif node not in place:
            users = [place[user] for user in node.users if user in layers]
            held = facts_of(node).role in HELD or node.op == "get_attr"
            place[node] = users[0] if held and users and node not in results else (INPUTS, "")
    return place


def _layers(gm: GraphModule) -> dict[Node, str]:
    """Return the layer of each operator; one that stands between layers goes with what it reads, else with its user."""
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    own = {node: layer_of(node) for node in calls}
    parents = {layer[:end] for layer in own.values() for end in range(len(layer)) if layer[end] == "."}
    layers = {node: layer for node, layer in own.items() if layer and layer not in parents}
    order = {node: position for position, node in enumerate(calls)}
    for node in calls:
        before = [source for source in node.all_input_nodes if source in layers]
        if node not in layers and before:
            layers[node] = layers[max(before, key=order.__getitem__)]
    for node in reversed(calls):
        after = [user for user in node.users if user in layers]
        if node not in layers and after:
            layers[node] = layers[min(after, key=order.__getitem__)]
    return {node: layers.get(node) or own[node] or "graph" for node in calls}


def _report(key: tuple[str, str], nodes: list[Node]) -> GroupReport:
    phases = Counter(facts.phase.value for node in nodes if (facts := facts_of(node)).phase is not None)
    inputs = [node for node in nodes if node.op != "call_function"]
    return GroupReport(
        name=key[0],
        device=key[1],
        n_nodes=len(nodes),
        weight_nbytes=held_nbytes(inputs, Role.WEIGHT, Role.BUFFER, Role.CONSTANT),
        cache_nbytes=held_nbytes(_newest_caches(nodes), Role.KV_CACHE),
        flops=sum(facts_of(node).flops or 0 for node in nodes),
        phase=phases.most_common(1)[0][0] if phases else None,
    )


def held_nbytes(nodes: Iterable[Node], *roles: Role) -> int:
    """Return the bytes of the values among `nodes` that play one of these roles."""
    return sum((facts_of(n).nbytes or nbytes_of(n) or 0) for n in nodes if facts_of(n).role in roles)


def _newest_caches(nodes: list[Node]) -> list[Node]:
    """Return the caches that a box has after the call: of one that grows there, not its older self."""
    computed = [node for node in nodes if node.op == "call_function"]
    caches = [node for node in computed if facts_of(node).role is Role.KV_CACHE]
    return [node for node in caches if not any(user in caches for user in node.users)]


def _arrows(
    gm: GraphModule, place: Mapping[Node, tuple[str, str]], order: Mapping[tuple[str, str], int]
) -> Iterable[Arrow]:
    crossing: dict[tuple[int, int], set[Node]] = {}
    for node in gm.graph.nodes:
        is_size = not isinstance(node.meta.get("val"), torch.Tensor | tuple | list)
        if is_size or facts_of(node).role in HELD - {Role.KV_CACHE}:  # neither flows from layer to layer
            continue
        for user in node.users:
            if user.op == "output" and facts_of(node).role is Role.KV_CACHE:  # it stays where it is
                continue
            ends = order[place[node]], order[place[user]]
            if ends[0] != ends[1]:
                crossing.setdefault(ends, set()).add(node)
    devices = {position: key[1] for key, position in order.items()}
    for (source, target), nodes in sorted(crossing.items()):
        nbytes = sum(nbytes_of(node) or 0 for node in nodes)
        pair = {devices[source], devices[target]} - {""}
        yield Arrow(source, target, len(nodes), nbytes, len(pair) == 2)
