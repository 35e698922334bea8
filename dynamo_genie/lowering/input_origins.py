"""Origins of an ATen graph's inputs (parameters, buffers, gradients), read off the capture, since no graph says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.torch_internals.descriptors import (
    AOTInput,
    BufferAOTInput,
    ParamAOTInput,
    PlainAOTInput,
    SubclassGetAttrAOTInput,
    TangentAOTInput,
)


def find_model_inputs(gm: GraphModule, example_inputs: Sequence[Any]) -> Origins:
    """Return the origins of a Dynamo graph's inputs: which are parameters and which are registered buffers."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    return Origins(
        frozenset(i for i, value in enumerate(example_inputs) if isinstance(value, nn.Parameter)),
        frozenset(i for i, node in enumerate(placeholders) if _is_buffer(node)),
    )


def origins_of(
    gm: GraphModule,
    model: Origins,
    direction: Literal["inference", "forward", "backward"] = "inference",
    n_results: int | None = None,
) -> Origins:
    """Return what is known of the inputs of an ATen graph that AOTAutograd made of a Dynamo graph.

    AOTAutograd reorders, drops and takes apart inputs; it notes on each which one it was.
    """
    inputs = [_described(node) for node in gm.graph.find_nodes(op="placeholder")]
    return Origins(
        parameters=frozenset(i for i, it in enumerate(inputs) if _is_one_of(it, model.parameters, ParamAOTInput)),
        buffers=frozenset(i for i, it in enumerate(inputs) if _is_one_of(it, model.buffers, BufferAOTInput)),
        gradients=frozenset(i for i, it in enumerate(inputs) if isinstance(it, TangentAOTInput)),
        n_results=n_results,
        direction=direction,
    )


def _described(node: Node) -> AOTInput | None:
    """Return AOTAutograd's note on an input; a part of a wrapped tensor stands for the whole."""
    note = node.meta.get("desc")
    while isinstance(note, SubclassGetAttrAOTInput):
        note = note.base
    return note if isinstance(note, AOTInput) else None


def _is_one_of(note: AOTInput | None, positions: frozenset[int], own: type[AOTInput]) -> bool:
    return isinstance(note, own) or (isinstance(note, PlainAOTInput) and note.idx in positions)


def _is_buffer(node: Node) -> bool:
    """Say whether an input was found in a module's table of buffers."""
    graph_argument = node.meta.get("grapharg")
    table = getattr(getattr(graph_argument, "source", None), "base", None)
    return getattr(table, "member", None) == "_buffers"
