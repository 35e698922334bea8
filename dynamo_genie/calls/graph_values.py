"""The names of a graph's inputs and results, and the tensor class of every value in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from dynamo_genie.calls.plan import CallPlan, tensor_class
from dynamo_genie.lowering.output_shapes import OutputShapes, shapes_of


@dataclass(frozen=True)
class GraphValues:
    """What running a graph in parts must know of the whole.

    Attributes:
        inputs: Names of the placeholders.
        outputs: Names of what the graph returns; "" for a plain value.
        kinds: For each value, the tensor class under which its bytes are counted.
    """

    plan: CallPlan
    shapes: OutputShapes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kinds: Mapping[str, str]


def graph_values(gm: GraphModule, plan: CallPlan) -> GraphValues:
    """Read the names and classes off a graph's annotated nodes."""
    inputs = tuple(node.name for node in gm.graph.find_nodes(op="placeholder"))
    returned: Any = gm.graph.output_node().args[0]
    outputs = tuple(value.name if isinstance(value, Node) else "" for value in returned)
    kinds = {node.name: tensor_class(node, "activation") for node in gm.graph.nodes}
    kinds.update(zip(outputs, plan.output_kinds, strict=True))
    kinds.update(zip(inputs, plan.input_kinds, strict=True))
    return GraphValues(plan, shapes_of(gm), inputs, outputs, kinds)
