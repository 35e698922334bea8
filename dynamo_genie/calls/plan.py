"""What is known of a graph's calls when it is compiled, wherever its parts will run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.lowering.numbers import numbers_of
from dynamo_genie.modes import Mode
from dynamo_genie.passes.graphs.semantics import Role, facts_of
from dynamo_genie.runtime.wire.tensor_class import TensorClass
from dynamo_genie.tensor.remote_tensor import handle_of

_TENSOR_CLASS: Mapping[Role, TensorClass] = MappingProxyType(
    {
        Role.WEIGHT: "weight",
        Role.BUFFER: "weight",
        Role.KV_CACHE: "kv_cache",
        Role.GRADIENT: "gradient",
    }
)
"""Roles under which a value's bytes are counted wherever it travels."""


@dataclass(frozen=True)
class CallPlan:
    """Positions are those of the graph's inputs and outputs.

    Attributes:
        mode: What may stay and what must travel.
        engine: What runs the program in the daemon.
        resident: The parameters and buffers among the inputs.
        unread: Whole numbers among the inputs that the graph does not use: sizes and strides that come with tensors.
        input_kinds: The tensor class of each input, for the byte counters.
        output_kinds: The tensor class of each output.
        passed_through: For each output, the position of the input it is, or -1.
        fetched: Outputs that come here with the call: numbers, gradients of local parameters, or all where no result
            stays.
        numbers: Outputs of which plain numbers are made, when they are here.
    """

    mode: Mode
    engine: str
    resident: frozenset[int]
    unread: frozenset[int]
    input_kinds: tuple[TensorClass, ...]
    output_kinds: tuple[TensorClass, ...]
    passed_through: tuple[int, ...]
    fetched: frozenset[int]
    numbers: frozenset[int] = frozenset()

    def bound(self, args: Sequence[Any]) -> tuple[int, ...]:
        """Return the positions of the local parameters and buffers of a call: those that are bound, not sent."""
        if not self.mode.weights_stay:
            return ()
        own = [i for i in sorted(self.resident) if handle_of(args[i]) is None]
        others = [
            i
            for i, arg in enumerate(args)
            if i not in self.resident and isinstance(arg, torch.nn.Parameter) and handle_of(arg) is None
        ]
        return (*own, *others)


def plan_calls(
    gm: GraphModule,
    mode: Mode,
    engine: str,
    resident: frozenset[int],
    n_results: int | None = None,
    gradients: frozenset[int] = frozenset(),
) -> CallPlan:
    """Read a graph's call plan off its annotated nodes.

    Args:
        gm: The graph.
        mode: What may stay and what must travel.
        engine: What runs the program in the daemon.
        resident: Positions of its parameters and buffers.
        n_results: How many of its outputs the user sees; the others are saved for backward. None: all.
        gradients: Outputs that the program wants here, where the graph makes them.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    position = {node: i for i, node in enumerate(placeholders)}
    returned: Any = gm.graph.output_node().args[0]
    outputs = list(returned)
    gradients = frozenset(i for i in gradients if i < len(outputs) and isinstance(outputs[i], Node))
    numbers = numbers_of(gm)
    made = frozenset(i for i, output in enumerate(outputs) if isinstance(output, Node))
    return CallPlan(
        mode=mode,
        engine=engine,
        resident=resident,
        unread=frozenset(i for i, node in enumerate(placeholders) if not node.users and _is_size(node)),
        input_kinds=tuple(tensor_class(node, "input") for node in placeholders),
        output_kinds=tuple(
            "activation"
            if n_results is not None and i >= n_results
            else tensor_class(output, "gradient" if i in gradients else "output")
            for i, output in enumerate(outputs)
        ),
        passed_through=tuple(position.get(output, -1) for output in outputs),
        fetched=gradients | numbers if mode.results_stay else made,
        numbers=numbers,
    )


def _is_size(node: Node) -> bool:
    return type(node.meta.get("val")) in (int, torch.SymInt)


def tensor_class(value: Any, otherwise: TensorClass) -> TensorClass:
    """Return the class under which a value's bytes are counted."""
    role = facts_of(value).role if isinstance(value, Node) else None
    return _TENSOR_CLASS.get(role, otherwise) if role is not None else otherwise
