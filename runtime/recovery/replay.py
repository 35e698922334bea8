"""What a new worker must be told, so that every handle alive names what it named: worked out from a journal.

The same calls in the same order, with the same shapes, on the same contents: so the bits are the same. What nobody
wants any more is not made, and what only other commands want is freed after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from dynamo_genie.runtime.recovery.held import Contents, Held
from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.recovery.records import Bound, Need, Record, Wanted, Weight, reach
from dynamo_genie.runtime.wire import messages as m

OVERWRITTEN = "a large input of it was overwritten since it was sent"


@dataclass(frozen=True)
class Make:
    """Let a handle name these contents."""

    handle: int
    held: Held


Step = m.Command | Make


@dataclass
class Replay:
    """What a new worker must be told.

    Attributes:
        steps: In order; the weights are there already, and the programs.
        last: What was waited for, and what follows it; it is answered under the number under which it was asked.
        lost: Handles that cannot be made again, and why not.
        refused: Why what was waited for cannot be asked again; empty where it can.
        calls: How many calls there are.
    """

    steps: list[Step] = field(default_factory=list)
    last: list[Step] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    refused: str = ""

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return sum(isinstance(step, m.Call) for step in (*self.steps, *self.last))


def find_lost(whole: Iterable[Record]) -> dict[Record, str]:
    """Return the records that cannot be done again, with the reason."""
    lost: dict[Record, str] = {}
    of_bindings: dict[Bound, str] = {}

    def first(needs: Iterable[Need]) -> str:
        return next((lost[record] for record, _ in needs if record in lost), "")

    for record in sorted(whole, key=lambda record: record.order):
        reason = _own_loss(record) or first(record.needs())
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


def plan_replay(journal: Journal, mint: Callable[[], int]) -> Replay:
    """Work out what a new worker must be told; `mint` returns fresh ids for what stands in for old contents."""
    needs = {handle: journal.needs_of(handle) for handle in journal.made}
    asked = _record_of(journal)
    asked_needs = [(asked, 0)] if asked is not None else []
    whole = reach([need for each in needs.values() for need in each] + asked_needs).whole
    lost = find_lost(whole)
    replay = Replay()
    for handle, each in needs.items():
        if reason := next((lost[record] for record, _ in each if record in lost), ""):
            replay.lost[handle] = reason
    wanted = [need for handle, each in needs.items() if handle not in replay.lost for need in each]
    if asked is not None and asked in lost:
        replay.refused, asked, asked_needs = lost[asked], None, []
    elif asked is None and journal.pending is not None:
        named = getattr(journal.pending, "handles", ())
        replay.refused = next((replay.lost[handle] for handle in named if handle in replay.lost), "")
    _Writer(journal, mint, reach(wanted + asked_needs), replay).write(asked)
    if asked is None and journal.pending is not None and not replay.refused and not isinstance(journal.pending, m.Call):
        replay.last.append(journal.pending)
    return replay


def _record_of(journal: Journal) -> Record | None:
    """Return the record of the call that is waited for."""
    return journal.asked if isinstance(journal.pending, m.Call) else None


class _Writer:
    """Writes the steps of a replay."""

    def __init__(self, journal: Journal, mint: Callable[[], int], wanted: Wanted, replay: Replay) -> None:
        self._journal = journal
        self._mint = mint
        self._wanted = wanted
        self._replay = replay
        self._stand_ins: dict[Record, int] = {}
        self._bindings: dict[Bound, int] = {}
        self._steps: list[tuple[Step, tuple[int, ...], tuple[int, ...]]] = []

    def write(self, asked: Record | None) -> None:
        """Write all; what is asked for goes last."""
        for record in self._wanted.whole:
            if type(record) is Weight and not record.current and record.held is not None:
                self._stand_ins[record] = stand_in = self._mint()
                self._steps.append((Make(stand_in, record.held), (), (stand_in,)))
        found: list[tuple[int, Record, int]] = [(r.order, r, 0) for r in self._wanted.whole if type(r) is not Weight]
        found += [(record.order, record, handle) for record, handle in self._wanted.cuts]
        for _, record, handle in sorted(found, key=lambda each: each[0]):
            if handle:
                self._steps.append((Make(handle, self._wanted.cuts[record, handle]), (), (handle,)))
            elif record.command is not None:
                self._write_call(record, record.command)
            elif record.held is not None:
                (made,) = self._wanted.whole[record]
                self._steps.append((Make(made, record.held), (), (made,)))
        self._free(asked)

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
        self._steps.append((again, reads, tuple(handle for handle in outputs if handle)))

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
            self._steps.append((again, (), ()))
        return self._bindings[bound]

    def _free(self, asked: Record | None) -> None:
        """Free each handle that is not alive after the last step that names it; then say which steps wait."""
        kept = {handle for handle in self._journal.made if handle not in self._replay.lost}
        kept |= set(self._stand_ins.values())
        steps: list[Step] = []
        for step, reads, makes in reversed(self._steps):
            dead = tuple(handle for handle in dict.fromkeys((*reads, *makes)) if handle not in kept)
            if dead:
                steps.append(m.Free(dead))
            steps.append(step)
            kept.difference_update(makes)
            kept.update(reads)
        steps.reverse()
        if self._stand_ins:
            steps.append(m.Free(tuple(self._stand_ins.values())))
        place = len(steps)
        if asked is not None:
            request = asked.command.request_id if asked.command is not None else 0
            place = next(i for i, step in enumerate(steps) if isinstance(step, m.Call) and step.request_id == request)
        self._replay.steps, self._replay.last = steps[:place], steps[place:]
