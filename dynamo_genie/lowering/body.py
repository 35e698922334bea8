"""Lowering of a graph's calls, of a whole program's or a sub-program's: numbers for values, names for operators."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.lowering.arguments import (
    HANDLED_BY_WORKER,
    dtype_name,
    lower_leaf,
    operator_key,
    source_line,
    unsupported,
)
from dynamo_genie.passes.graphs.graph_view import draws, is_getitem, nodes_in
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import HigherOrderOperator, OpOverload


class SubPrograms:
    """The sub-programs of a program, as far as they are lowered: each graph once, after those that it names itself.

    Attributes:
        constants: The small tensors that the program and its sub-programs hold.
        lines: For each node of the sub-programs in order, the user's source line that caused it.
    """

    def __init__(self) -> None:
        self.constants: list[torch.Tensor] = []
        self.bodies: list[p.SubProgram] = []
        self.lines: list[str | None] = []
        self._numbers: dict[GraphModule, int] = {}

    def number_of(self, gm: GraphModule) -> int:
        """Return the number of the sub-program that computes what `gm` computes; lower it if it is new."""
        if gm not in self._numbers:
            body, lines = self._lower(gm)
            self._numbers[gm] = len(self.bodies)
            self.bodies.append(body)
            self.lines += lines
        return self._numbers[gm]

    def _lower(self, gm: GraphModule) -> tuple[p.SubProgram, list[str | None]]:
        lowering = BodyLowering(gm, self)
        constants: list[int] = []
        for node, tensor in lowering.held:
            if tensor.nbytes > MAX_INLINE_NBYTES:
                line = source_line(next(iter(node.users), node).stack_trace)
                raise unsupported(f"a constant of {tensor.nbytes} bytes inside a branch or a loop", line)
            lowering.number(node, len(lowering.inputs) + len(constants))
            constants.append(len(self.constants))
            self.constants.append(tensor)
        nodes, lines = lowering.calls(len(lowering.inputs) + len(constants))
        return p.SubProgram(tuple(lowering.inputs), tuple(constants), nodes, lowering.outputs()[0]), lines


class BodyLowering:
    """One walk over a graph.

    Attributes:
        inputs: What comes in, in the order of the placeholders.
        held: The tensors that the graph holds, not numbered yet.
        index: The numbers of the values so far.
        mutated: The inputs that are written in place.
        random: Whether it draws random numbers.
    """

    def __init__(self, gm: GraphModule, subs: SubPrograms) -> None:
        self._graph = gm.graph
        self.index: dict[Node, int] = {}
        self.mutated: set[int] = set()
        self.random = False
        self._roots: dict[Node, frozenset[int]] = {}  # follows views back to the inputs
        placeholders = gm.graph.find_nodes(op="placeholder")
        self.inputs: list[p.TensorInput | p.ScalarInput] = [_lower_placeholder(node) for node in placeholders]
        for position, node in enumerate(placeholders):
            self.number(node, position)
        attributes = [(node, _attribute(gm, node)) for node in gm.graph.find_nodes(op="get_attr")]
        self.held = [(node, value) for node, value in attributes if isinstance(value, torch.Tensor)]
        self._named = {node: p.SubRef(subs.number_of(it)) for node, it in attributes if isinstance(it, GraphModule)}

    def number(self, node: Node, value: int) -> None:
        """Give a placeholder, or a tensor that the graph holds, its number; inputs are followed."""
        self.index[node] = value
        if value < len(self.inputs):
            self._roots[node] = frozenset((value,))

    def calls(self, first: int) -> tuple[tuple[p.Node, ...], list[str | None]]:
        """Lower the calls, whose values are numbered from `first` on; return them with their source lines."""
        calls = [node for node in self._graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        self.index.update({node: first + number for number, node in enumerate(calls)})
        return tuple(self._call(node) for node in calls), [source_line(node.stack_trace) for node in calls]

    def outputs(self) -> tuple[tuple[p.Argument, ...], tuple[int, ...]]:
        """Lower the results; also return the positions of those that are plain numbers."""
        values = self._graph.output_node().args[0]
        flat = list(values) if isinstance(values, (list, tuple)) else [values]
        lowered = tuple(self._argument(value, "output", None) for value in flat)
        scalars = tuple(i for i, value in enumerate(flat) if value is not None and not _is_tensor(value))
        return lowered, scalars

    def _call(self, node: Node) -> p.Node:
        line = source_line(node.stack_trace)
        if node.op != "call_function":
            raise unsupported(f"{node.op} {node.target!r}", line)
        key = operator_key(node.target, line)
        self._follow(node)
        args = tuple(self._named_or(argument, key, line) for argument in node.args)
        kwargs = tuple(
            (name, self._argument(value, key, line))
            for name, value in sorted(node.kwargs.items())
            if name not in HANDLED_BY_WORKER
        )
        return p.Node(key, args, kwargs)

    def _named_or(self, argument: Any, key: str, line: str | None) -> p.Argument:
        """Lower an argument of a call, which may be a sub-program."""
        named = self._named.get(argument) if isinstance(argument, Node) else None
        return named or self._argument(argument, key, line)

    def _argument(self, argument: Any, key: str, line: str | None) -> p.Argument:
        if isinstance(argument, Node):
            return p.Ref(self.index[argument])
        if isinstance(argument, (list, tuple)):
            return p.Items(tuple(self._argument(item, key, line) for item in argument))
        return lower_leaf(argument, key, line)

    def _follow(self, node: Node) -> None:
        """Note which inputs `node` writes to, and which inputs its result is a view of."""
        target = node.target
        roots: frozenset[int] = frozenset()
        self.random = self.random or draws(node)
        if isinstance(target, OpOverload):
            schema = read_schema(target)
            for place in schema.shares:
                reached = self._roots_of(schema.argument(place, node.args, node.kwargs))
                roots |= reached
                if place in schema.writes:
                    self.mutated |= reached
        elif is_getitem(node):  # of a tuple of views
            roots = self._roots_of(node.args[0])
        self._roots[node] = roots

    def _roots_of(self, actual: Any) -> frozenset[int]:
        return frozenset().union(*(self._roots.get(node, frozenset()) for node in nodes_in(actual)))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) and not isinstance(
        value.meta.get("val"), (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    )


def _lower_placeholder(node: Node) -> p.TensorInput | p.ScalarInput:
    example = node.meta.get("val")
    if isinstance(example, torch.Tensor):
        return p.TensorInput(dtype_name(example.dtype), example.dim())
    if isinstance(example, (bool, torch.SymBool)):
        return p.ScalarInput("bool")
    if isinstance(example, (float, torch.SymFloat)):
        return p.ScalarInput("float")
    if isinstance(example, (int, torch.SymInt)) or (example is None and not node.users):
        return p.ScalarInput("int")
    raise unsupported(f"an input of type {type(example).__name__} ({node.name})", None)


def _attribute(gm: GraphModule, node: Node) -> torch.Tensor | GraphModule:
    """Return the tensor, or the graph of a branch or a loop, that a graph holds."""
    value = attrgetter(str(node.target))(gm)
    if isinstance(value, torch.Tensor):
        return value.detach()
    user = next(iter(node.users), node)
    line = source_line(user.stack_trace)
    if isinstance(value, GraphModule) and isinstance(user.target, HigherOrderOperator):
        operator_key(user.target, line)  # raises where no daemon runs it
        return value
    raise unsupported(str(user.target), line)
