"""What new workers must be told, so that every handle alive names what it named: worked out from journals.

The same calls in the same order, with the same shapes, on the same contents: so the bits are the same. What nobody
wants any more is not made, and what only other commands want is freed after the last of them. Sessions that were sent
tensors by others are told together with these, in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter

import msgspec

from dynamo_genie.runtime.recovery.held import Contents, Held
from dynamo_genie.runtime.recovery.journal import FROM_ELSEWHERE, Journal
from dynamo_genie.runtime.recovery.records import Bound, Need, Reach, Receiving, Record, Sending, Wanted, Weight
from dynamo_genie.runtime.wire import messages as m

OVERWRITTEN = "a large input of it was overwritten since it was sent"


@dataclass(frozen=True)
class Make:
    """Let a handle name these contents."""

    handle: int
    held: Held


@dataclass(frozen=True)
class Send:
    """Send what a handle names to another session."""

    handle: int
    sending: Sending[Journal]


@dataclass(frozen=True)
class Receive:
    """Let a handle name what another session sends."""

    handle: int
    sending: Sending[Journal]


Alone = m.Command | Make
"""What one session can be told alone."""

Step = Alone | Send | Receive


@dataclass
class Replay:
    """What a new worker must be told.

    Attributes:
        steps: In order, with the number of the record of each; the weights are there already, and the programs.
        last: What was waited for, and what follows it; it is answered under the number under which it was asked.
        lost: Handles that cannot be made again, and why not.
        refused: Why what was waited for cannot be asked again; empty where it can.
    """

    steps: list[tuple[int, Step]] = field(default_factory=list)
    last: list[Alone] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    refused: str = ""


class JointReach:
    """Finds all that some sessions must do so that there is what is needed of each.

    Attributes:
        outside: The journals of other sessions, that would have to send something again.
    """

    def __init__(self, journals: Iterable[Journal]) -> None:
        self._reaches: dict[Journal, Reach[Journal]] = {journal: Reach() for journal in journals}
        self.outside: set[Journal] = set()

    def add(self, journal: Journal, needs: Iterable[Need]) -> None:
        """Find what is needed of one session."""
        pending = [(journal, needs)]
        while pending:
            journal, needs = pending.pop()
            for sending in self._reaches[journal].add(needs):
                if sending.journal in self._reaches:
                    pending.append((sending.journal, [(sending, 0)]))
                else:
                    self.outside.add(sending.journal)

    def wanted(self) -> dict[Journal, Wanted]:
        """Return what was found, by session."""
        return {journal: reach.wanted() for journal, reach in self._reaches.items()}


def needed_from_others(journals: Collection[Journal]) -> set[Journal]:
    """Return the journals of other sessions that would have to send these something again."""
    joint = JointReach(journals)
    for journal in journals:
        joint.add(journal, journal.all_needs())
    return joint.outside


def find_lost(whole: Iterable[Record], journals: Collection[Journal]) -> dict[Record, str]:
    """Return the records of these sessions that cannot be done again, with the reason."""
    lost: dict[Record, str] = {}
    of_bindings: dict[Bound, str] = {}

    def first(needs: Iterable[Need]) -> str:
        return next((lost[record] for record, _ in needs if record in lost), "")

    for record in sorted(whole, key=lambda record: record.order):
        reason = _own_loss(record) or first(record.needs())
        if not reason and type(record) is Receiving:
            sending = record.sending
            reason = lost.get(sending, "") if sending and sending.journal in journals else FROM_ELSEWHERE
        bound = record.bound
        if not reason and bound is not None:
            if bound not in of_bindings:
                of_bindings[bound] = first(bound.needs())
            reason = of_bindings[bound]
        if reason:
            lost[record] = reason
    return lost


def _own_loss(record: Record) -> str:
    if type(record) is Weight and record.current:
        return ""
    if isinstance(record.held, Contents) and not record.held.unchanged:
        return OVERWRITTEN
    return record.lost


def plan_replay(mints: Mapping[Journal, Callable[[], int]]) -> dict[Journal, Replay]:
    """Work out what new workers of these sessions must be told; what others sent cannot be made again.

    Args:
        mints: The journals, each with what returns fresh ids for what stands in for old contents.
    """
    joint = JointReach(mints)
    for journal in mints:
        joint.add(journal, journal.all_needs())
    whole = {journal: wanted.whole for journal, wanted in joint.wanted().items()}
    for journal, records in whole.items():
        _give_up(records, *journal.given_up)
    lost = find_lost((record for records in whole.values() for record in records), mints.keys())
    plans = {journal: _Plan(journal, lost) for journal in mints}
    joint = JointReach(mints)
    for journal, plan in plans.items():
        joint.add(journal, plan.needs)
    for journal, wanted in joint.wanted().items():
        _Writer(journal, mints[journal], wanted, plans[journal].replay).write(plans[journal].asked)
    return {journal: plan.finished() for journal, plan in plans.items()}


def in_one_order(replays: Mapping[Journal, Replay]) -> Iterator[tuple[Journal, Step]]:
    """Yield the steps of several sessions in an order in which nothing is received before it was sent."""

    def of_one(journal: Journal) -> Iterator[tuple[int, Journal, Step]]:
        return ((order, journal, step) for order, step in replays[journal].steps)

    for _, journal, step in merge(*map(of_one, replays), key=itemgetter(0)):
        yield journal, step


def _give_up(records: Iterable[Record], last: int, reason: str) -> None:
    for record in records:
        if record.order <= last and record.command is not None:
            record.lost = record.lost or reason


class _Plan:
    """What of one session can be made again, and what is to be asked again."""

    def __init__(self, journal: Journal, lost: Mapping[Record, str]) -> None:
        self.replay = replay = Replay()
        self.asked = journal.asked if isinstance(journal.pending, m.Call) else None
        self._pending = journal.pending
        needs = {handle: journal.needs_of(handle) for handle in journal.made}
        for handle, each in needs.items():
            if reason := next((lost[record] for record, _ in each if record in lost), ""):
                replay.lost[handle] = reason
        self.needs = [need for handle, each in needs.items() if handle not in replay.lost for need in each]
        if self.asked is not None and self.asked in lost:
            replay.refused, self.asked = lost[self.asked], None
        elif self.asked is not None:
            self.needs.append((self.asked, 0))
        elif self._pending is not None:
            named = getattr(self._pending, "handles", ())
            replay.refused = next((replay.lost[handle] for handle in named if handle in replay.lost), "")

    def finished(self) -> Replay:
        """Return the replay with what is waited for."""
        pending = self._pending
        if pending is not None and not self.replay.refused and not isinstance(pending, m.Call):
            self.replay.last.append(pending)
        return self.replay


class _Writer:
    """Writes the steps of a replay."""

    def __init__(self, journal: Journal, mint: Callable[[], int], wanted: Wanted, replay: Replay) -> None:
        self._journal = journal
        self._mint = mint
        self._wanted = wanted
        self._replay = replay
        self._stand_ins: dict[Record, int] = {}
        self._bindings: dict[Bound, int] = {}
        self._steps: list[tuple[int, Step, tuple[int, ...], tuple[int, ...]]] = []
        self._order = 0

    def write(self, asked: Record | None) -> None:
        """Write all; what is asked for goes last."""
        for record in self._wanted.whole:
            if type(record) is Weight and not record.current and record.held is not None:
                self._stand_ins[record] = stand_in = self._mint()
                self._write(Make(stand_in, record.held), makes=(stand_in,))
        found: list[tuple[int, Record, int]] = [(r.order, r, 0) for r in self._wanted.whole if type(r) is not Weight]
        found += [(record.order, record, handle) for record, handle in self._wanted.cuts]
        for self._order, record, handle in sorted(found, key=itemgetter(0)):
            if handle:
                self._write(Make(handle, self._wanted.cuts[record, handle]), makes=(handle,))
            elif record.command is not None:
                self._write_call(record, record.command)
            elif record.held is not None:
                (made,) = self._wanted.whole[record]
                self._write(Make(made, record.held), makes=(made,))
            elif type(record) is Sending:
                sent = self._stand_ins.get(record.births[0], record.reads[0])
                self._write(Send(sent, record), reads=(sent,))
            elif type(record) is Receiving and record.sending is not None:
                (made,) = self._wanted.whole[record]
                self._write(Receive(made, record.sending), makes=(made,))
        self._free(asked)

    def _write(self, step: Step, reads: tuple[int, ...] = (), makes: tuple[int, ...] = ()) -> None:
        self._steps.append((self._order, step, reads, makes))

    def _write_call(self, record: Record, call: m.Call) -> None:
        assert record.takes is not None
        binding = self._binding(record.bound) if record.bound is not None else 0
        inputs, births = list(call.inputs), iter(record.births)
        for at in record.takes.tensors:
            if type(inputs[at]) is int:
                inputs[at] = self._stand_ins.get(next(births), inputs[at])
        wanted = self._wanted.whole[record]
        outputs = tuple(handle if handle in wanted else 0 for handle in call.outputs)
        again = msgspec.structs.replace(call, binding=binding, inputs=tuple(inputs), outputs=outputs)
        reads = tuple(each for at in record.takes.tensors if type(each := inputs[at]) is int)
        self._write(again, reads, tuple(handle for handle in outputs if handle))

    def _binding(self, bound: Bound) -> int:
        """Return a binding that names what this one named."""
        number = bound.command.binding
        at_present = self._journal.bindings[number].command is bound.command
        if at_present and not any(birth in self._stand_ins for birth in bound.births):
            return number
        if bound not in self._bindings:
            self._bindings[bound] = self._mint()
            handles = tuple(
                self._stand_ins.get(birth, handle)
                for birth, handle in zip(bound.births, bound.command.handles, strict=True)
            )
            again = msgspec.structs.replace(bound.command, binding=self._bindings[bound], handles=handles)
            self._write(again)
        return self._bindings[bound]

    def _free(self, asked: Record | None) -> None:
        """Free each handle that is not alive after the last step that names it; then say which steps wait."""
        kept = {handle for handle in self._journal.made if handle not in self._replay.lost}
        kept |= set(self._stand_ins.values())
        steps: list[tuple[int, Step]] = []
        for order, step, reads, makes in reversed(self._steps):
            dead = tuple(handle for handle in dict.fromkeys((*reads, *makes)) if handle not in kept)
            if dead:
                steps.append((order, m.Free(dead)))
            steps.append((order, step))
            kept.difference_update(makes)
            kept.update(reads)
        steps.reverse()
        if self._stand_ins:
            steps.append((self._order, m.Free(tuple(self._stand_ins.values()))))
        place = len(steps)
        if asked is not None:
            request = asked.command.request_id if asked.command is not None else 0
            calls = ((i, step) for i, (_, step) in enumerate(steps) if isinstance(step, m.Call))
            place = next(i for i, call in calls if call.request_id == request)
        self._replay.steps, self._replay.last = steps[:place], [*map(_alone, steps[place:])]


def _alone(told: tuple[int, Step]) -> Alone:
    """Return a step that comes with what was waited for, or after it: nothing was sent or received since."""
    _, step = told
    assert not isinstance(step, Send | Receive)
    return step
