"""Lowering of an FX graph to a Program: names for operators, numbers for values, nothing that belongs to one device."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.lowering.arguments import (
    HANDLED_BY_WORKER,
    dtype_name,
    lower_constant,
    lower_leaf,
    operator_key,
    source_line,
    unsupported,
)
from dynamo_genie.passes.graphs.graph_view import nodes_in
from dynamo_genie.passes.graphs.portable_operators import draws_random_numbers
from dynamo_genie.passes.graphs.semantics import Facts, facts_of
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.fake import unset_fake_temporarily
from dynamo_genie.torch_internals.operators import OpOverload


@dataclass(frozen=True)
class LoweredProgram:
    """A Program, its canonical bytes and digest, and what only the client knows about it.

    Attributes:
        node_lines: For each node of the program, the user's source line that caused it.
        lifted_constants: Constants of the graph that are too large for the program; they are passed as extra
            inputs, after the graph's own placeholders.
        scalar_outputs: Positions in `program.outputs` that hold a plain number instead of a tensor.
    """

    program: p.Program
    encoded: bytes
    digest: bytes
    node_lines: tuple[str | None, ...]
    lifted_constants: tuple[torch.Tensor, ...] = ()
    scalar_outputs: tuple[int, ...] = ()


def lower(gm: GraphModule, *, facts: bool = True) -> LoweredProgram:
    """Return the Program that computes what `gm` computes; raise `UnsupportedOperator` where none can.

    Without `facts`, the program does not say what its values are.
    """
    with unset_fake_temporarily():  # the constants of a graph are real tensors, also while it is being captured
        return _GraphLowering(gm, facts).run()


def finish(program: p.Program, lines: tuple[str | None, ...], **extra: Any) -> LoweredProgram:
    """Validate, encode and name a program."""
    p.validate_program(program)
    encoded = p.encode_program(program)
    return LoweredProgram(program, encoded, p.program_digest(encoded), lines, **extra)


class _GraphLowering:
    """One walk over a graph. `_index` numbers the values, `_roots` follows views back to the inputs."""

    def __init__(self, gm: GraphModule, facts: bool) -> None:
        self._gm = gm
        self._with_facts = facts
        self._index: dict[Node, int] = {}
        self._roots: dict[Node, frozenset[int]] = {}
        self._mutated: set[int] = set()
        self._random = False

    def run(self) -> LoweredProgram:
        graph = self._gm.graph
        placeholders = graph.find_nodes(op="placeholder")
        inputs: list[p.TensorInput | p.ScalarInput] = [_lower_placeholder(node) for node in placeholders]
        for position, node in enumerate(placeholders):
            self._index[node] = position
            self._roots[node] = frozenset((position,))
        small, lifted = self._number_constants(inputs)
        calls = self._number_calls(len(inputs) + len(small))
        nodes = tuple(self._lower_call(node) for node in calls)
        outputs, scalars = self._lower_outputs(graph.output_node())
        program = p.Program(
            version=p.PROGRAM_VERSION,
            inputs=tuple(inputs),
            constants=tuple(lower_constant(tensor) for tensor in small),
            nodes=nodes,
            outputs=outputs,
            mutated_inputs=tuple(sorted(self._mutated)),
            random=self._random,
            default_dtype=dtype_name(torch.get_default_dtype()),
            **self._facts(),
        )
        lines = tuple(source_line(node.stack_trace) for node in calls)
        return finish(program, lines, lifted_constants=lifted, scalar_outputs=scalars)

    def _number_constants(
        self, inputs: list[p.TensorInput | p.ScalarInput]
    ) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """Number the tensors that the graph holds: large ones as further inputs, then small ones as constants."""
        held = [(node, _attribute(self._gm, node)) for node in self._gm.graph.find_nodes(op="get_attr")]
        large = [(node, tensor) for node, tensor in held if tensor.nbytes > MAX_INLINE_NBYTES // 16]
        for node, tensor in large:
            self._roots[node] = frozenset((len(inputs),))
            self._index[node] = len(inputs)
            inputs.append(p.TensorInput(dtype_name(tensor.dtype), tensor.dim()))
        small: list[torch.Tensor] = []
        for node, tensor in held:
            if node not in self._index:
                self._index[node] = len(inputs) + len(small)
                small.append(tensor)
        return small, tuple(tensor for _, tensor in large)

    def _number_calls(self, first: int) -> list[Node]:
        calls = [node for node in self._gm.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        self._index.update({node: first + number for number, node in enumerate(calls)})
        return calls

    def _lower_call(self, node: Node) -> p.Node:
        line = source_line(node.stack_trace)
        if node.op != "call_function":
            raise unsupported(f"{node.op} {node.target!r}", line)
        key = operator_key(node.target, line)
        self._follow(node)
        args = tuple(self._lower_argument(argument, key, line) for argument in node.args)
        kwargs = tuple(
            (name, self._lower_argument(value, key, line))
            for name, value in sorted(node.kwargs.items())
            if name not in HANDLED_BY_WORKER
        )
        return p.Node(key, args, kwargs)

    def _lower_argument(self, argument: Any, key: str, line: str | None) -> p.Argument:
        if isinstance(argument, Node):
            return p.Ref(self._index[argument])
        if isinstance(argument, (list, tuple)):
            return p.Items(tuple(self._lower_argument(item, key, line) for item in argument))
        return lower_leaf(argument, key, line)

    def _follow(self, node: Node) -> None:
        """Note which inputs `node` writes to, and which inputs its result is a view of."""
        target = node.target
        roots: frozenset[int] = frozenset()
        if isinstance(target, OpOverload):
            self._random = self._random or draws_random_numbers(target)
            schema = read_schema(target)
            for place in schema.shares:
                reached = self._roots_of(schema.argument(place, node.args, node.kwargs))
                roots |= reached
                if place in schema.writes:
                    self._mutated |= reached
        elif node.args:  # getitem of a tuple of views
            roots = self._roots_of(node.args[0])
        self._roots[node] = roots

    def _roots_of(self, actual: Any) -> frozenset[int]:
        return frozenset().union(*(self._roots.get(node, frozenset()) for node in nodes_in(actual)))

    def _facts(self) -> dict[str, Any]:
        """Return what the passes know of each value, equal facts once; nothing where no pass has looked."""
        if not self._with_facts:
            return {}
        by_value = {index: facts_of(node) for node, index in self._index.items()}
        if all(facts == Facts() for facts in by_value.values()):
            return {}
        distinct: dict[p.ValueFacts, int] = {}
        numbers = [distinct.setdefault(_lower_facts(by_value[i]), len(distinct)) for i in range(len(by_value))]
        return {"facts": tuple(distinct), "fact_of": tuple(numbers)}

    def _lower_outputs(self, output: Node) -> tuple[tuple[p.Argument, ...], tuple[int, ...]]:
        values = output.args[0]
        flat = list(values) if isinstance(values, (list, tuple)) else [values]
        lowered = tuple(self._lower_argument(value, "output", None) for value in flat)
        scalars = tuple(i for i, value in enumerate(flat) if value is not None and not _is_tensor(value))
        return lowered, scalars


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) and not isinstance(
        value.meta.get("val"), (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    )


def _lower_facts(facts: Facts) -> p.ValueFacts:
    return p.ValueFacts(
        role=facts.role.value if facts.role else "",
        phase=facts.phase.value if facts.phase else "",
        residency=facts.residency.value if facts.residency else "",
        group=facts.group or "",
        priority=facts.priority or 0,
        nbytes=-1 if facts.nbytes is None else facts.nbytes,
        flops=-1 if facts.flops is None else facts.flops,
        dtype=facts.dtype or "",
        confidence=facts.confidence or 0.0,
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


def _attribute(gm: GraphModule, node: Node) -> torch.Tensor:
    value = attrgetter(str(node.target))(gm)
    if isinstance(value, torch.Tensor):
        return value.detach()
    user = next(iter(node.users), node)
    raise unsupported(str(user.target), source_line(user.stack_trace))
