"""The fixed form of a decode step whose caches grow: the same computation, and no shape changes from step to step.

A step appends a few rows to each cache and attends to all that it then holds. In its own form a `cat` makes a longer
tensor each time. In the fixed form the rows are written behind the content of the cache's arena (see `kv_arena`), at a
place that a number on the device names, and attention is given the whole arena and the number of rows that count::

    own form                                  fixed form
    v9 = cat([v1, v8], -2)                    v9 = append_rows(v1, v8, counts, 0)
    v11 = attention(v7, v9, v10, scale=s)     v11 = attend(v7, v9, v10, v8, counts, 0, s)
    v4 = add(v3, n)                           v4 = add_count(v3, counts, 2)

`counts` is one vector, the last input: the rows of each cache before the step, then the numbers that are only added to
tensors. Results are those of the own form but for rounding: sums over more rows may be taken in another order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dynamo_genie.remote_daemon.operators.arena_plan import ArenaPlan
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.operators.table import Operator
from dynamo_genie.remote_daemon.operators.used_rows import ROWS, Attend, add_count, append_rows, attend_with
from dynamo_genie.runtime.wire import program as p

_ADD = "aten.add.Tensor"
_ATTENTION = "genie.attention"
_KEY, _VALUE = 1, 2
_HARMLESS = (0.0, False)
"""What may follow query, key and value: no dropout, not causal."""


class NotFixed(Exception):
    """A Program has no fixed form; the message says why, for people."""


@dataclass(frozen=True)
class GrowingCache:
    """A cache that a step makes longer: the positions of the input and of the result that hold it."""

    input: int
    output: int


@dataclass(frozen=True)
class FixedStep:
    """The fixed form of a Program.

    Attributes:
        resolved: The Program; its last input is `counts`, and for each cache it takes and returns a whole arena, from
            the cache's first row on.
        caches: In the order of their counts.
        pairs: The numbers of the caches that are keys and values of one attention: they must be equally long.
        added: Positions of the inputs whose numbers follow in `counts`.
        idle: Positions of the number inputs that it reads no longer, `added` among them.
    """

    resolved: ResolvedProgram
    caches: tuple[GrowingCache, ...]
    pairs: tuple[tuple[int, int], ...]
    added: tuple[int, ...]
    idle: frozenset[int]


@dataclass(frozen=True)
class _Use:
    """One place where a value is read: the number of the node, -1 for the results, and the position there."""

    node: int
    position: int


_Uses: TypeAlias = Mapping[int, Sequence[_Use]]


def fixed_step(resolved: ResolvedProgram, attend: Attend) -> FixedStep:
    """Return the fixed form of a step; `attend` computes its attentions to growing caches.

    Raises:
        NotFixed: A cache grows, or is read, in another way.
    """
    program = resolved.program
    if program.subprograms:
        raise NotFixed("it has branches or loops, which may grow a cache or not")
    n = len(program.inputs)
    first = n + len(program.constants)
    uses = _uses_of(program)
    appends = resolved.arenas.appends
    caches = {node: _cache(program, uses, appends, node) for node in sorted(appends)}
    numbers = [i for i, item in enumerate(program.inputs) if item == p.ScalarInput("int")]
    idle = [i for i in numbers if _is_only_added(program, uses.get(i, ()))]
    added = tuple(i for i in idle if i in uses)
    place = {value: index for index, value in enumerate((*(first + node for node in caches), *added))}

    pairs = []

    nodes, operators = list(program.nodes), list(resolved.operators)
    for number, node in enumerate(program.nodes):
        if number in caches:
            past, new = _joined(node)
            nodes[number] = p.Node(node.op, (past, new, _COUNTS, place[first + number]))
            operators[number] = Operator(node.op, append_rows, None)
        elif node.op == _ADD and isinstance(other := _argument(node, 1), p.Ref) and other.index in added:
            nodes[number] = p.Node(node.op, (node.args[0], _COUNTS, place[other.index]))
            operators[number] = Operator(node.op, add_count, None)
        elif node.op == _ATTENTION and isinstance(key := _argument(node, _KEY), p.Ref) and key.index - first in caches:
            _, new = _joined(program.nodes[key.index - first])
            value = node.args[_VALUE]
            assert isinstance(value, p.Ref)
            pairs.append((place[key.index], place[value.index]))
            scale = dict(node.kwargs).get("scale")
            nodes[number] = p.Node(node.op, (*node.args[:3], new, _COUNTS, place[key.index], scale))
            operators[number] = Operator(node.op, attend_with(attend), None)

    def moved(argument: p.Argument) -> p.Argument:
        """Count the new input in, which stands before constants and nodes."""
        if isinstance(argument, p.Items):
            return p.Items(tuple(map(moved, argument.items)))
        if argument is _COUNTS:
            return p.Ref(n)
        return p.Ref(argument.index + 1) if isinstance(argument, p.Ref) and argument.index >= n else argument

    form = p.Program(
        program.version,
        (*program.inputs, p.TensorInput("int64", 1)),
        program.constants,
        tuple(
            p.Node(node.op, tuple(map(moved, node.args)), tuple((name, moved(item)) for name, item in node.kwargs))
            for node in nodes
        ),
        tuple(map(moved, program.outputs)),
        tuple(sorted({*program.mutated_inputs, *(cache.input for cache in caches.values())})),
        program.random,
        program.default_dtype,
        (*program.facts, p.ValueFacts()) if program.fact_of else (),
        (*program.fact_of[:n], len(program.facts), *program.fact_of[n:]) if program.fact_of else (),
    )
    return FixedStep(
        ResolvedProgram(form, resolved.device, tuple(operators), ArenaPlan(reshapes=resolved.arenas.reshapes)),
        tuple(caches.values()),
        tuple(pairs),
        added,
        frozenset(idle),
    )


_COUNTS = p.Ref(0)
"""Stands for the new input until values are counted anew; known by being this very object."""


def _cache(program: p.Program, uses: _Uses, appends: frozenset[int], number: int) -> GrowingCache:
    """Return the cache that a `cat` makes longer, if only attention reads it and the caller gets it back."""
    first = len(program.inputs) + len(program.constants)
    node = program.nodes[number]
    try:
        past, _ = _joined(node)
        axis = node.args[1]
    except (ValueError, IndexError):
        raise NotFixed("a cache is joined of more than what was there and what is new") from None
    item = program.inputs[past.index] if past.index < len(program.inputs) else None
    if not isinstance(item, p.TensorInput) or not item.rank or len(uses[past.index]) != 1:
        raise NotFixed("a cache that grows is no input, or is read before it does")
    if not isinstance(axis, int) or axis % item.rank != item.rank + ROWS:
        raise NotFixed(f"a cache grows along dimension {axis} of {item.rank}, where attention has no keys")
    places = uses.get(first + number, ())
    returned = [use.position for use in places if use.node < 0]
    readers = [use for use in places if use.node >= 0]
    if len(returned) != 1:
        raise NotFixed("a cache that grows is not returned, or more than once")
    if not all(use.position in (_KEY, _VALUE) and _attends(program, uses, appends, use.node) for use in readers):
        raise NotFixed("a growing cache is read by something else than an attention that needs no mask")
    return GrowingCache(past.index, returned[0])


def _joined(node: p.Node) -> tuple[p.Ref, p.Ref]:
    """Return what a `cat` of two values joins; ValueError where it joins others."""
    match node.args[0]:
        case p.Items(items=(p.Ref() as past, p.Ref() as new)) if not node.kwargs:
            return past, new
    raise ValueError


def _attends(program: p.Program, uses: _Uses, appends: frozenset[int], number: int) -> bool:
    """Whether a node is attention of all rows to all rows of two growing caches, whose output alone is read."""
    node = program.nodes[number]
    if node.op != _ATTENTION or any(name != "scale" for name, _ in node.kwargs):
        return False
    first = len(program.inputs) + len(program.constants)
    both = all(isinstance(argument, p.Ref) and argument.index - first in appends for argument in node.args[1:3])
    plain = all(given == right for given, right in zip(node.args[3:], _HARMLESS, strict=False))
    readers = [program.nodes[use.node] if use.node >= 0 else None for use in uses.get(first + number, ())]
    output_alone = all(r is not None and r.op == "getitem" and r.args[1:] == (0,) for r in readers)
    return both and plain and output_alone and len(node.args) > _VALUE


def _is_only_added(program: p.Program, uses: Iterable[_Use]) -> bool:
    """Whether a number is added to tensors, and nothing else is done with it."""
    return all(
        use.node >= 0
        and use.position == 1
        and program.nodes[use.node].op == _ADD
        and _is_tensor(program, program.nodes[use.node].args[0])
        and not program.nodes[use.node].kwargs
        for use in uses
    )


def _is_tensor(program: p.Program, argument: p.Argument) -> bool:
    """Whether an argument is a tensor, as far as the Program's text tells."""
    if not isinstance(argument, p.Ref):
        return False
    if argument.index < len(program.inputs):
        return isinstance(program.inputs[argument.index], p.TensorInput)
    number = argument.index - len(program.inputs) - len(program.constants)
    return number < 0 or program.nodes[number].op.startswith(("aten.", "genie.", "getitem"))


def _argument(node: p.Node, position: int) -> p.Argument:
    """Return an argument that is given by its position, None where none is."""
    return node.args[position] if position < len(node.args) else None


def _uses_of(program: p.Program) -> _Uses:
    """Return where each value is read; what is inside a list has the list's position."""
    uses: defaultdict[int, list[_Use]] = defaultdict(list)
    for number, node in enumerate(program.nodes):
        for position, argument in enumerate((*node.args, *(item for _, item in node.kwargs))):
            for index in p.references(argument):
                uses[index].append(_Use(number, position))
    for position, output in enumerate(program.outputs):
        for index in p.references(output):
            uses[index].append(_Use(-1, position))
    return dict(uses)
