"""Where the results of a Program lie: in memory of its own, or in that of an input; read off operators' schemas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import HIGHER_ORDER
from dynamo_genie.schemas import OperatorSchema, read_schema
from dynamo_genie.torch_internals.operators import OpOverload

GETITEM = "getitem"


@dataclass(frozen=True)
class ProgramMemory:
    """What a call of a Program reads and writes, and where its results lie.

    Attributes:
        tensors: Positions of the inputs that are tensors.
        mutated: Positions of those that it writes into.
        sharing: For each output that lies in the memory of an input, its position and that of each such input.
        together: Groups of outputs that lie in one memory that the Program makes.
        fresh: Positions of outputs that are results of kernels, and no views of any.
    """

    tensors: tuple[int, ...]
    mutated: tuple[int, ...]
    sharing: tuple[tuple[int, int], ...]
    together: tuple[tuple[int, ...], ...]
    fresh: frozenset[int]


def memory_of_program(program: p.Program) -> ProgramMemory:
    """Read a Program."""
    homes = _homes(program)
    sharing: list[tuple[int, int]] = []
    groups: dict[int, list[int]] = {}
    fresh: set[int] = set()
    for position, output in enumerate(program.outputs):
        if not isinstance(output, p.Ref):
            continue
        for home in homes[output.index]:
            if home < len(program.inputs):
                sharing.append((position, home))
            else:
                groups.setdefault(home, []).append(position)
        if homes[output.index] == frozenset({output.index}) and output.index >= len(program.inputs):
            fresh.add(position)
    return ProgramMemory(
        tuple(i for i, each in enumerate(program.inputs) if isinstance(each, p.TensorInput)),
        program.mutated_inputs,
        tuple(sharing),
        tuple(tuple(group) for group in groups.values() if len(group) > 1),
        frozenset(fresh),
    )


def _homes(program: p.Program) -> list[frozenset[int]]:
    """Return for each value the values in whose memory it may lie; alone itself, where that is new."""
    first = len(program.inputs) + len(program.constants)
    homes = [frozenset({value}) for value in range(first)]
    taken: dict[tuple[int, p.Argument], int] = {}
    for number, node in enumerate(program.nodes, first):
        shared: frozenset[int] = frozenset().union(*(homes[value] for value in _shared(node)))
        if node.op == GETITEM and isinstance(node.args[0], p.Ref) and shared == {node.args[0].index}:
            shared = frozenset({taken.setdefault((node.args[0].index, node.args[1]), number)})
        homes.append(shared or frozenset({number}))
    return homes


def _shared(node: p.Node) -> Iterator[int]:
    """Yield the values whose memory a node may return; nobody says what a branch returns."""
    if node.op == GETITEM:
        yield from p.references(node.args[0])
        return
    schema = _schema(node.op)
    kwargs = dict(node.kwargs)
    if schema is not None:
        places = [schema.argument(place, node.args, kwargs) for place in schema.shares]
    else:
        places = [*node.args] if node.op in HIGHER_ORDER else []
    for place in places:
        yield from p.references(place)


@cache
def _schema(key: str) -> OperatorSchema | None:
    """Return the schema of an operator of PyTorch's; None for others, whose results are new."""
    namespace, _, rest = key.partition(".")
    if namespace != "aten":
        return None
    packet, _, overload = rest.rpartition(".")
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    return read_schema(found) if isinstance(found, OpOverload) else None


def positions_in(holes: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return where among the `holes` that a call fills the `wanted` positions of its Program are."""
    index = {position: i for i, position in enumerate(holes)}
    return tuple(index[position] for position in wanted if position in index)
