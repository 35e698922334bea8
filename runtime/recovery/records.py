"""Records: what made the tensors of a session, and what wrote into them, each with the records of what it read.

A record is kept by those that read what it made, and by the handles that name it. When nothing alive depends on it, the
last reference goes and so does the record: nobody looks for records to drop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dynamo_genie.runtime.recovery.held import Held, Share
from dynamo_genie.runtime.recovery.program_memory import ProgramMemory, positions_in
from dynamo_genie.runtime.wire import messages as m

J = TypeVar("J")

Need = tuple["Record", int]
"""A record and the handle that is wanted of it."""


class Record:
    """One command that made or wrote tensors. Nearly all die soon, hence slots.

    Attributes:
        order: Rises from record to record of a session.
        command: The call; None for a tensor that came from here.
        reads: The handles that the call reads, those of its binding apart.
        births: What made each of them.
        writes: Handles among them whose memory was written before, with the last record that did.
        bound: What its binding named.
        takes: How the call's inputs and outputs lie.
        held: What a tensor that came from here can be made from again.
        share: What the record takes of the journal's budget.
        cuts: Handles whose contents after this record are held: they need nothing else.
        lost: Why this cannot be done again; empty where it can.
    """

    __slots__ = (
        "births", "bound", "command", "cuts", "held", "lost", "order", "reads", "share", "takes",
        "writes",
    )  # fmt: skip

    def __init__(self, order: int, command: m.Call | None = None, held: Held | None = None) -> None:
        self.order = order
        self.command = command
        self.reads: tuple[int, ...] = ()
        self.births: tuple[Record, ...] = ()
        self.writes: tuple[Need, ...] = ()
        self.bound: Bound | None = None
        self.takes: Takes | None = None
        self.held = held
        self.share: Share | None = None
        self.cuts: dict[int, Held] | None = None
        self.lost = ""

    def needs(self) -> Iterator[Need]:
        """Yield what must be there before this can be done again, what its binding names apart."""
        return needs_of(self.reads, self.births, self.writes)

    def let_go(self) -> None:
        """Forget how this was made: what it made is held."""
        self.command = self.bound = self.takes = self.share = None
        self.reads, self.births, self.writes = (), (), ()


class Weight(Record):
    """The contents that a resident weight had for a while: `current` says whether it still has them.

    Attributes:
        handle: The weight's handle.
        held: A copy of the contents, where the program that used them went on to change them.
    """

    __slots__ = ("current", "handle")

    def __init__(self, order: int, handle: int) -> None:
        super().__init__(order)
        self.handle = handle
        self.current = True


class Sending(Record, Generic[J]):
    """A tensor as it was when it was sent to another session, whose record of it keeps this one alive.

    Attributes:
        journal: The journal of the session that sent it.
        kind: The tensor class under which its bytes count.
    """

    __slots__ = ("journal", "kind")

    def __init__(self, order: int, journal: J, kind: str) -> None:
        super().__init__(order)
        self.journal = journal
        self.kind = kind


class Receiving(Record, Generic[J]):
    """A tensor that another session sent; it is made again by sending it again. Its order is above the sending's."""

    __slots__ = ("sending",)

    def __init__(self, order: int, sending: Sending[J] | None) -> None:
        super().__init__(order)
        self.sending = sending

    def let_go(self) -> None:
        """Forget where it came from."""
        super().let_go()
        self.sending = None


@dataclass(slots=True, eq=False)
class Bound:
    """What a binding named at some calls; another one takes its place when a weight has other contents.

    Attributes:
        command: What made the binding.
        births: What each of its handles named.
        writes: As in `Record`.
    """

    command: m.BindWeights
    births: tuple[Record, ...]
    writes: tuple[Need, ...]

    def needs(self) -> Iterator[Need]:
        """Yield what must be there before a call can use the binding."""
        return needs_of(self.command.handles, self.births, self.writes)


def needs_of(
    handles: tuple[int, ...], births: tuple[Record, ...], writes: tuple[tuple[Record, int], ...]
) -> Iterator[Need]:
    """Yield the records without which handles do not name what they named: what made them, and the last writes."""
    last = {handle: record for record, handle in writes}
    for handle, birth in zip(handles, births, strict=True):
        write = last.get(handle)
        if write is None or write.cuts is None or handle not in write.cuts:
            yield birth, handle
        if write is not None:
            yield write, handle


@dataclass(frozen=True, slots=True)
class Takes:
    """How the inputs of calls lie through one binding, or through none.

    Attributes:
        tensors: Positions among a call's inputs of those that may be handles.
        written: Positions among them of those that the program writes.
        bound_written: Positions in the binding of what the program writes.
        sharing: Outputs that lie in the memory of an input of the call, with its position.
        bound_sharing: Outputs that lie in the memory of what is bound, with its position there.
    """

    memory: ProgramMemory
    tensors: tuple[int, ...]
    written: tuple[int, ...]
    bound_written: tuple[int, ...]
    sharing: tuple[tuple[int, int], ...]
    bound_sharing: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, memory: ProgramMemory, inputs: int, bound: tuple[int, ...] = ()) -> Takes:
        """Return how calls of a program with so many inputs look, of which some positions are bound."""
        taken = set(bound)
        holes = [i for i in range(inputs) if i not in taken]

        def among(holes: Sequence[int]) -> tuple[tuple[int, int], ...]:
            return tuple((out, at) for out, i in memory.sharing for at in positions_in(holes, (i,)))

        written, bound_written = positions_in(holes, memory.mutated), positions_in(bound, memory.mutated)
        return cls(memory, positions_in(holes, memory.tensors), written, bound_written, among(holes), among(bound))

    @property
    def plain(self) -> bool:
        """Whether a call writes nothing, and all its results lie apart."""
        return not (self.memory.mutated or self.memory.sharing or self.memory.together)


@dataclass(slots=True, eq=False)
class SharedMemory:
    """Memory that was written, or in which several handles lie.

    Attributes:
        handles: The handles that lie in it.
        last: What wrote to it last.
    """

    handles: set[int] = field(default_factory=set)
    last: Record | None = None


@dataclass(frozen=True)
class Wanted:
    """What is wanted of some records.

    Attributes:
        whole: Records that are done again, with the handles that are wanted of each.
        cuts: Contents that are held of a record that is not done again.
    """

    whole: dict[Record, set[int]]
    cuts: dict[Need, Held]


class Reach(Generic[J]):
    """Finds all that one session must do so that there is what is needed."""

    def __init__(self) -> None:
        self._whole: dict[Record, set[int]] = {}
        self._cuts: dict[Need, Held] = {}
        self._bindings: set[Bound] = set()

    def add(self, needs: Iterable[Need]) -> list[Sending[J]]:
        """Find what this needs, too; return what other sessions must send for it."""
        whole, bindings = self._whole, self._bindings
        elsewhere: list[Sending[J]] = []
        pending = list(needs)
        while pending:
            record, handle = pending.pop()
            if record.cuts is not None and handle in record.cuts:
                self._cuts[record, handle] = record.cuts[handle]
                continue
            names = whole.get(record)
            if names is not None:
                names.add(handle)
                continue
            whole[record] = {handle}
            pending.extend(record.needs())
            if record.bound is not None and record.bound not in bindings:
                bindings.add(record.bound)
                pending.extend(record.bound.needs())
            if type(record) is Receiving and record.sending is not None:
                elsewhere.append(record.sending)
        return elsewhere

    def wanted(self) -> Wanted:
        """Return what was found."""
        for record, handle in [need for need in self._cuts if need[0] in self._whole]:
            self._whole[record].add(handle)  # it comes out of that anyway
            del self._cuts[record, handle]
        return Wanted(self._whole, self._cuts)


def reach(needs: Iterable[Need]) -> Wanted:
    """Find all that one session must do so that there is what is needed."""
    found: Reach[object] = Reach()
    found.add(needs)
    return found.wanted()
