"""The towers of a model: which inputs a value depends on, which of them are pixels or sound, and who looks at whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.origins import Origins, data_inputs, find_sources
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.axes import length_of, shape_of
from dynamo_genie.passes.understanding.lineage import carried_to, history, is_computed, roots_of

aten = torch.ops.aten

_CONVOLUTIONS: frozenset[Any] = frozenset({aten.convolution.default, aten.conv2d.default, aten.conv1d.default})
_WRITES_BACK: Mapping[str, Any] = MappingProxyType({"op": "call_function", "target": aten.copy_.default})
_IMAGE_RANK = 4
"""A convolution's weight has [out, in, height, width] or more dimensions for images, one fewer for sound."""


@dataclass(frozen=True)
class Towers:
    """The inputs of a graph's towers, and the inputs that each node depends on.

    Attributes:
        inputs: The data inputs, in order.
        sources: For each node, the data inputs it depends on: bit i stands for the i-th.
        pixels: The data inputs that are images or video: floats that a convolution over two or more dimensions reads.
        sound: The data inputs that a convolution over one dimension reads.
    """

    inputs: tuple[Node, ...]
    sources: Mapping[Node, int]
    pixels: tuple[Node, ...]
    sound: tuple[Node, ...]

    def of(self, node: Node) -> int:
        """Return the data inputs that a node depends on."""
        return self.sources.get(node, 0)

    def inputs_in(self, mask: int) -> Iterator[Node]:
        """Yield the data inputs that the bits of a mask stand for."""
        while mask:
            lowest = mask & -mask
            yield self.inputs[lowest.bit_length() - 1]
            mask ^= lowest

    def within(self, node: Node, inputs: tuple[Node, ...]) -> bool:
        """Say whether a node depends on some of the given inputs, and on no others."""
        mine, theirs = self.of(node), sum(map(self.of, inputs))
        return bool(mine) and mine & ~theirs == 0


def find_towers(gm: GraphModule, origins: Origins) -> Towers:
    """Return what each node depends on, and which inputs are pixels and which sound."""
    inputs = tuple(data_inputs(gm, origins))
    kept = frozenset((*result_nodes(gm), *(copy.args[0] for copy in gm.graph.find_nodes(**_WRITES_BACK))))
    first_convolution = {node: _convolution_rank(node, kept) for node in inputs if _is_float(node)}
    pixels = tuple(node for node, rank in first_convolution.items() if rank >= _IMAGE_RANK)
    sound = tuple(node for node, rank in first_convolution.items() if 0 < rank < _IMAGE_RANK)
    return Towers(inputs, find_sources(gm, origins), pixels, sound)


def is_cross_attention(attention: Attention, towers: Towers) -> bool:
    """Say whether an attention looks at what another tower made, its own queries not being among it."""
    query_ends, key_ends = (
        _ends(side) for side in (attention.query_history, history(attention.key, attention.key_axis))
    )
    if not key_ends or set(query_ends) & set(key_ends) or roots_of(query_ends) & roots_of(key_ends):
        return not key_ends
    lengths = {length_of(node, axis) for node, axis in key_ends.items()} - {None}
    if lengths and attention.query_length not in lengths:
        return True
    asks, looks_at = (_sources_of(ends, towers) for ends in (query_ends, key_ends))
    return asks == 0 or asks & ~looks_at != 0


def _ends(found: Mapping[Node, int | None]) -> dict[Node, int | None]:
    """Return the nodes that computed new entries: projections, most often."""
    return {node: axis for node, axis in found.items() if is_computed(node)}


def _sources_of(ends: Mapping[Node, int | None], towers: Towers) -> int:
    return reduce(or_, map(towers.of, ends), 0)


def _convolution_rank(node: Node, kept: frozenset[Node]) -> int:
    """Return the dimensions of the weight of the first convolution that reads an input, 0 where none does.

    An input whose entries are `kept` for the next call is the state of a recurrent layer, and nothing perceived.
    """
    rank = 0
    for carrier in carried_to([node]):
        if carrier in kept:
            return 0
        weights = (user.args[1] for user in carrier.users if user.target in _CONVOLUTIONS and user.args[0] is carrier)
        rank = rank or next((len(shape_of(weight) or ()) for weight in weights if isinstance(weight, Node)), 0)
    return rank


def _is_float(node: Node) -> bool:
    return bool(node.meta["val"].is_floating_point())
