"""The arena plan of a Program: which caches may grow in place, and which inputs must be ordinary tensors.

A window of an arena (see `kv_arena`) has other strides than the tensor eager PyTorch would have, and shares its memory
with older and newer caches. Nobody may notice. So a `cat` becomes an append only where all that reads its result gives
the same bits for any strides, nothing writes to it, and at most one result of the Program lives in its memory; and an
input that is read in any other way leaves its arena before the call. What is not in the tables below is "any other
way". Facts only choose among the `cat`s that qualify. Made once, at load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dynamo_genie.runtime.wire import program as p

KV_CACHE = "kv_cache"
_CAT = "aten.cat.default"
_BMM = "aten.bmm.default"
_SLICE = "aten.slice.Tensor"
_TO_THE_END = (1 << 63) - 1

SAME_MEMORY = frozenset({"aten.alias.default", "aten.detach.default"})
VIEWS = SAME_MEMORY | {
    _SLICE, "aten.select.int", "aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
    "aten.expand.default", "aten.permute.default", "aten.transpose.int", "aten.t.default",
    "aten.split.Tensor", "aten.split_with_sizes.default", "aten.unbind.int", "getitem",
}  # fmt: skip
"""Operators whose result is a view of their first argument whatever its strides are."""

RESHAPES = frozenset({"aten.view.default", "aten._unsafe_view.default"})
"""Operators that want strides which fit; `reshape` gives the same values for any."""

READERS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        _CAT: (0,),
        "aten.clone.default": (0,),
        "aten._to_copy.default": (0,),
        "aten.index_select.default": (0,),
        "aten.mul.Tensor": (0, 1),
        "aten.bmm.default": (0, 1),
        "genie.attention": (1, 2),
    }
)
"""Operators that give the same bits for a window as for a contiguous tensor, and the arguments they do so for.

They move elements, multiply one by one, or were measured (`tests/remote_daemon/memory/test_arena_bits.py`).
Sums are not among them: their order follows the strides.
"""


@dataclass(frozen=True)
class ArenaPlan:
    """The plan by which a Program's engine and its caller use arenas.

    Attributes:
        appends: Numbers of the nodes, `cat`s all, that grow a cache.
        reshapes: Numbers of the nodes that must take any strides, because they may view a window.
        read_otherwise: Positions of the inputs that must not be windows when the Program is called.
    """

    appends: frozenset[int] = frozenset()
    reshapes: frozenset[int] = frozenset()
    read_otherwise: frozenset[int] = frozenset()


def plan_arenas(program: p.Program, unlike: frozenset[str] = frozenset()) -> ArenaPlan:
    """Return where caches may grow in place in `program`, whose nodes fit their operators' schemas.

    Args:
        unlike: Dtypes in which products with a window have other bits than those with a contiguous tensor.
    """
    walk = _Walk(program, unlike)
    for number, node in enumerate(program.nodes):
        walk.follow(walk.first + number, node)
    walk.note_results()
    appends = walk.appends()
    windows = appends | (walk.inputs - walk.read_otherwise)
    return ArenaPlan(
        appends=frozenset(value - walk.first for value in appends),
        reshapes=frozenset(value - walk.first for value, viewed in walk.reshaped.items() if viewed & windows),
        read_otherwise=frozenset(walk.inputs & walk.read_otherwise),
    )


@dataclass(frozen=True)
class _End:
    """Says that a value is a whole `cat` or the end of one: of which, and along which dimension. 0: unknown rank."""

    cat: int
    axis: int | None
    rank: int

    def is_kept_by(self, node: p.Node) -> bool:
        """Whether `node`, which views this value, gives the end of the same `cat`."""
        if node.op in SAME_MEMORY:
            return True
        if node.op != _SLICE or node.kwargs:
            return False
        given = (*node.args[1:], *(0, None, _TO_THE_END, 1)[len(node.args) - 1 :])
        axis, stop, step = given[0], given[2], given[3]
        return _normal(axis, self.rank) == self.axis and stop in (None, _TO_THE_END) and step == 1


class _Walk:
    """Follows memory through a Program. A *source* is a value that may be a window: a tensor input or a `cat`.

    Attributes:
        first: The number of the first node's value.
        inputs: The tensor inputs.
        read_otherwise: Sources that must not be windows.
        reshaped: For each value of a reshaping node, the sources that it views.
    """

    def __init__(self, program: p.Program, unlike: frozenset[str]) -> None:
        self._program = program
        self._unlike = unlike
        self._unlike_sources = {
            i for i, item in enumerate(program.inputs)
            if isinstance(item, p.TensorInput) and (item.dtype is None or item.dtype in unlike)
        }  # fmt: skip
        self.first = len(program.inputs) + len(program.constants)
        self.inputs = {i for i, item in enumerate(program.inputs) if isinstance(item, p.TensorInput)}
        self.read_otherwise = set(program.mutated_inputs)
        self.reshaped: dict[int, set[int]] = {}
        self._sources: dict[int, set[int]] = {i: {i} for i in self.inputs}
        self._ends: dict[int, _End] = {}
        self._continued: set[int] = set()  # `cat`s whose first part is a cache

    def follow(self, value: int, node: p.Node) -> None:
        """Note what a node's result may be a view of, and which arguments it reads in a way of its own."""
        if node.op in VIEWS or node.op in RESHAPES:
            self._note_reads_except(node, (0,))
            self._view(value, node)
        elif node.op in READERS:
            self._note_reads_except(node, READERS[node.op])
            if self._unlike and node.op == _BMM:
                self.read_otherwise |= self._sources_of(node.args) & self._unlike_sources
            if node.op == _CAT:
                self._join(value, node)
        else:
            self._note_reads_except(node, ())  # whatever the result views, it is no window

    def note_results(self) -> None:
        """Note which sources the caller could reach through a result, other than one `cat` through one."""
        reached: set[int] = set()
        for output in self._program.outputs:
            sources = self._sources_of((output,))
            end = self._end_of(output)
            self.read_otherwise |= (sources & reached) | (sources - {end.cat} if end else sources)
            reached |= sources

    def appends(self) -> set[int]:
        """Return the `cat`s that may grow in place and, by the facts, are caches, continue one or end as one."""
        caches = {end.cat for value, end in self._ends.items() if self._is_cache(value)}
        return (caches | self._continued) - self.read_otherwise

    def _view(self, value: int, node: p.Node) -> None:
        viewed = self._sources[value] = self._sources_of(node.args[:1])
        if node.op in RESHAPES:
            self.read_otherwise |= {source for source in viewed & self.inputs if not self._is_cache(source)}
            self.reshaped[value] = viewed
        elif node.args and (end := self._end_of(node.args[0])) and end.is_kept_by(node):
            self._ends[value] = end

    def _join(self, value: int, node: p.Node) -> None:
        match node.args:
            case (p.Items(items=(p.Ref() as past, *_)), int() as axis):
                rank = self._rank(past)
                before = self._sources_of((past,))
                if not before or before & self._unlike_sources:  # of no known dtype, or of one of those
                    self._unlike_sources.add(value)
                self._sources[value] = {value}
                self._ends[value] = _End(value, _normal(axis, rank), rank)
                if any(self._is_cache(source) for source in (past.index, *self._sources_of((past,)))):
                    self._continued.add(value)

    def _rank(self, past: p.Ref) -> int:
        """Return the rank of a `cat`'s first part where the Program says it, else 0."""
        end = self._end_of(past)
        if end is not None:
            return end.rank
        item = self._program.inputs[past.index] if past.index in self.inputs else None
        rank = item.rank if isinstance(item, p.TensorInput) else None
        return rank if rank is not None and rank > 1 else 0  # torch.cat skips an empty tensor of rank 1

    def _is_cache(self, value: int) -> bool:
        return p.role_of(self._program, value) == KV_CACHE

    def _note_reads_except(self, node: p.Node, harmless: Sequence[int]) -> None:
        others = [argument for position, argument in enumerate(node.args) if position not in harmless]
        self.read_otherwise |= self._sources_of([*others, *(argument for _, argument in node.kwargs)])

    def _end_of(self, argument: p.Argument) -> _End | None:
        return self._ends.get(argument.index) if isinstance(argument, p.Ref) else None

    def _sources_of(self, arguments: Iterable[p.Argument]) -> set[int]:
        named = (index for argument in arguments for index in p.references(argument))
        return {source for index in named for source in self._sources.get(index, ())}


def _normal(axis: object, rank: int) -> int | None:
    """Return a dimension, counted from the front where the rank is known; None for what is no plain number."""
    if not isinstance(axis, int):
        return None
    return axis % rank if rank else axis
