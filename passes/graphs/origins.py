"""Origins of a graph's inputs, which the capture knows and the graph does not say: parameters, buffers, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from typing import Literal

import torch
from torch.fx import GraphModule, Node


@dataclass(frozen=True)
class Origins:
    """Origins of a graph's inputs: which, by position, are the model's own; and what its results are.

    Attributes:
        gradients: In a backward graph, the inputs that are gradients of the forward's results.
        n_results: How many of the results the user sees; the rest are saved for backward. None: all.
        direction: Whether the graph is one without a backward, a forward that has one, or a backward.
    """

    parameters: frozenset[int] = frozenset()
    buffers: frozenset[int] = frozenset()
    gradients: frozenset[int] = frozenset()
    n_results: int | None = None
    direction: Literal["inference", "forward", "backward"] = "inference"

    @cached_property
    def model_inputs(self) -> frozenset[int]:
        """Positions of the inputs that belong to the model: its parameters and buffers."""
        return self.parameters | self.buffers


def data_inputs(gm: GraphModule, origins: Origins) -> Iterator[Node]:
    """Yield the tensors that a call brings: every input that is neither a parameter nor a buffer."""
    for position, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        if position not in origins.model_inputs and isinstance(node.meta.get("val"), torch.Tensor):
            yield node


def find_sources(gm: GraphModule, origins: Origins) -> dict[Node, int]:
    """Return, for each node, the data inputs it depends on: bit i stands for the i-th of `data_inputs`."""
    sources = {node: 1 << bit for bit, node in enumerate(data_inputs(gm, origins))}
    for node in gm.graph.nodes:
        if node.op != "placeholder":
            sources[node] = reduce(or_, (sources.get(operand, 0) for operand in node.all_input_nodes), 0)
    return sources
