"""What is known of a graph's calls when it is compiled, wherever its parts will run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.calls.saved import SavedValue, saved_values
from dynamo_genie.lowering.numbers import numbers_of
from dynamo_genie.modes import Mode
from dynamo_genie.passes.graphs.semantics import Role, facts_of
from dynamo_genie.passes.graphs.shared_memory import results_in_one_memory
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
        sampled: Whether a sample of a weight's bytes will do where the kernel cannot tell whether it was written.
        resident: The parameters and buffers among the inputs.
        unread: Whole numbers among the inputs that the graph does not use: sizes and strides that come with tensors.
        input_kinds: The tensor class of each input, for the byte counters.
        output_kinds: The tensor class of each output.
        passed_through: For each output, the position of the input it is, or -1.
        fetched: Outputs that come here with the call: numbers, gradients of local parameters; all where no result
            stays, or all that are no caches where the program wants plain tensors.
        numbers: Outputs of which plain numbers are made, when they are here.
        shared: Outputs that live in one memory, group by group; what is `fetched` of them comes with that memory.
        immediate: Whether a call waits until the daemon has run it, and raises what went wrong there.
        backward: Whether the graph is a backward, whose inputs a forward has saved.
        saved: Outputs that are saved for backward, of which autograd would notice it if they were written to.
    """

    mode: Mode
    engine: str
    sampled: bool
    resident: frozenset[int]
    unread: frozenset[int]
    input_kinds: tuple[TensorClass, ...]
    output_kinds: tuple[TensorClass, ...]
    passed_through: tuple[int, ...]
    fetched: frozenset[int]
    shared: tuple[tuple[int, ...], ...] = ()
    immediate: bool = False
    backward: bool = False
    saved: tuple[SavedValue, ...] = ()
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
    *,
    sampled: bool = False,
    plain: bool = False,
    immediate: bool = False,
    backward: bool = False,
) -> CallPlan:
    """Read a graph's call plan off its annotated nodes.

    Args:
        gm: The graph.
        mode: What may stay and what must travel.
        engine: What runs the program in the daemon.
        resident: Positions of its parameters and buffers.
        n_results: How many of its outputs the user sees; the others are saved for backward. None: all.
        gradients: Outputs that the program wants here, where the graph makes them.
        sampled: Whether a sample of a weight's bytes will do where the kernel cannot tell whether it was written.
        plain: Whether the program wants plain tensors for all results that it sees, but for caches.
        immediate: Whether its calls wait for the daemon, to raise their own errors.
        backward: Whether it is a backward.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    position = {node: i for i, node in enumerate(placeholders)}
    returned: Any = gm.graph.output_node().args[0]
    outputs = list(returned)
    gradients = frozenset(i for i in gradients if i < len(outputs) and isinstance(outputs[i], Node))
    numbers = numbers_of(gm)
    made = frozenset(i for i, output in enumerate(outputs) if isinstance(output, Node))
    output_kinds: tuple[TensorClass, ...] = tuple(
        "activation"
        if n_results is not None and i >= n_results
        else tensor_class(output, "gradient" if i in gradients else "output")
        for i, output in enumerate(outputs)
    )
    if mode.results_stay and plain:
        made = frozenset(i for i in made if output_kinds[i] not in ("kv_cache", "activation"))
    fetched = gradients | numbers if mode.results_stay and not plain else made
    return CallPlan(
        mode=mode,
        engine=engine,
        sampled=sampled,
        resident=resident,
        unread=frozenset(i for i, node in enumerate(placeholders) if not node.users and _is_size(node)),
        input_kinds=tuple(tensor_class(node, "input") for node in placeholders),
        output_kinds=output_kinds,
        passed_through=tuple(position.get(output, -1) for output in outputs),
        fetched=fetched,
        numbers=numbers,
        shared=results_in_one_memory(gm),
        immediate=immediate or (plain and not fetched),
        backward=backward,
        saved=saved_values(placeholders, outputs, n_results) if n_results is not None else (),
    )


def _is_size(node: Node) -> bool:
    return type(node.meta.get("val")) in (int, torch.SymInt)


def tensor_class(value: Any, otherwise: TensorClass) -> TensorClass:
    """Return the class under which a value's bytes are counted."""
    role = facts_of(value).role if isinstance(value, Node) else None
    return _TENSOR_CLASS.get(role, otherwise) if role is not None else otherwise
