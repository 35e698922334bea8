"""Saving results: what is fetched once need not be computed again, and cuts off all that it was computed from."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

import torch

from dynamo_genie.runtime.recovery.held import FREE_NBYTES, Contents, Held
from dynamo_genie.runtime.recovery.notes import Notes
from dynamo_genie.runtime.recovery.records import Record, Wanted, Weight, reach
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_ITEMS
from dynamo_genie.runtime.wire.tensor import InlineTensor
from dynamo_genie.tensors import empty_like_spec, flat_bytes, spec_nbytes

SMALL_NBYTES = 16 << 10
"""Results up to this size are saved before weights change that they were computed from."""

PRUNE_EVERY = 1024
"""So many records are made before it is worth looking for those that nothing needs any more."""


LONG_CALLS = 256
"""So many calls are done again sooner than their results would have been fetched."""

FETCHED_BYTES_PER_S = 1e9
"""How fast results come here, about."""

MAX_CALLS = 50_000
"""More calls are not kept to be done again, of which some 75 MB would be here: the oldest are let go."""

TOO_LONG = "what it was computed by are more calls than a session keeps, and it is too large to be saved on the client"

TIME_SHARE = 0.01
"""The part of the time that results are fetched in only to be saved."""


class Saving:
    """The results of one session that are saved, and that are being saved.

    Attributes:
        lapsed: Whether a worker died that was asked for recent results; `recent` returns them again.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._asked: dict[int, list[tuple[int, Record | None]]] = {}
        self._asked_since: dict[int, int] = {}
        self.lapsed = False
        self._awaited = 0
        self._looked_at = self._since = 0
        self._left: list[int] = []
        self._pruned = 0
        self._let_go = False
        self._cut_at = time.monotonic()

    def forget(self) -> None:
        """Expect no answer any more: the worker is gone."""
        self.lapsed = bool(self._asked_since)
        if self.lapsed:
            self._looked_at = min(self._asked_since.values())
        self._asked.clear()
        self._asked_since.clear()

    def recent(self, unwanted: Collection[int] = ()) -> list[int]:
        """Return the handles that were made or written since this was called last and can be saved.

        Not those that are `unwanted`. What the last call read is left for the next time: after a backward most of it is
        what the forward left for it alone, and gone by then.
        """
        journal, since = self._notes.journal, self._looked_at
        found: list[int] = []
        for handle in reversed(journal.made):
            if journal.made[handle].order <= since:
                break
            found.append(handle)
        found += [
            handle
            for handle, memory in journal.memories.items()
            if memory.last is not None and memory.last.order > since and journal.made[handle].order <= since
        ]
        left = set(self._left)
        found += [handle for handle in left if handle in journal.made and journal.made[handle].order <= since]
        self._looked_at, self._since = journal.order, since
        self.lapsed = False
        savable = [handle for handle in self._savable(found) if handle not in unwanted]
        self._left = [handle for handle in savable if handle in journal.last_reads and handle not in left]
        return [handle for handle in savable if handle not in self._left]

    def all(self) -> list[int]:
        """Return all handles that can be saved."""
        return self._savable(self._notes.journal.made)

    def _savable(self, handles: Iterable[int]) -> list[int]:
        found = []
        for handle in handles:
            record = self._latest(handle)
            if record is None or record.held is not None or type(record) is Weight or handle in (record.cuts or ()):
                continue
            found.append(handle)
        return found[:MAX_ITEMS]

    def _latest(self, handle: int) -> Record | None:
        """Return the record after which a handle has what it has; None where others have part of it, and might write.

        What was never written and has views can be saved, not its views: those are made of it again.
        """
        memory = self._notes.journal.memories.get(handle)
        if memory is None or (memory.last is None and (len(memory.handles) == 1 or self._is_no_view(handle))):
            return self._notes.journal.made[handle]
        return memory.last if len(memory.handles) == 1 else None

    def _is_no_view(self, handle: int) -> bool:
        record = self._notes.journal.made[handle]
        if record.command is None or record.takes is None:
            return False
        return record.command.outputs.index(handle) in record.takes.memory.fresh

    def asked(self, request_id: int, handles: Sequence[int], *, awaited: bool = False) -> None:
        """Note that handles are asked for, as they are now; whoever awaits the answer takes it."""
        if awaited:
            self._awaited = request_id
        else:
            self._asked_since[request_id] = self._since
        self._asked[request_id] = [(handle, self._latest(handle)) for handle in handles]

    def arrived(self, reply: m.Saved) -> None:
        """Take an answer that nobody awaits."""
        if reply.request_id != self._awaited:
            self.take(reply)

    def take(self, reply: m.Saved, downloads: Sequence[torch.Tensor | None] = ()) -> None:
        """Save what came: in the answer, or as downloads."""
        asked = self._asked.pop(reply.request_id, [])
        self._asked_since.pop(reply.request_id, None)
        for position, ((handle, record), found) in enumerate(zip(asked, reply.tensors, strict=False)):
            if found is None or record is None:
                continue
            held = self._held(found, downloads[position] if downloads else None)
            if held is not None:
                record.cuts = {**(record.cuts or {}), handle: held}
        if self.due:
            self.prune()

    def _held(self, found: m.FetchedTensor, download: torch.Tensor | None) -> Held | None:
        if download is not None:
            return Contents.of(download, self._notes.journal.budget, private=True)
        if len(found.data) != spec_nbytes(found.spec):
            return None
        if len(found.data) < FREE_NBYTES:
            return InlineTensor(found.spec, found.data)
        tensor = empty_like_spec(found.spec)
        flat_bytes(tensor).numpy().data[:] = found.data
        return Contents.of(tensor, self._notes.journal.budget, private=True)

    @property
    def due(self) -> bool:
        """Whether so much was made that it is worth looking for what is too long to be done again."""
        return self._notes.journal.order - self._pruned >= max(PRUNE_EVERY, len(self._notes.journal.made))

    def worth(self, nbytes: int) -> bool:
        """Say whether to fetch so many bytes now, to cut off what they were computed from; if so, that is noted."""
        budget, now = self._notes.journal.budget, time.monotonic()
        if budget.used + nbytes > budget.limit or now - self._cut_at < nbytes / FETCHED_BYTES_PER_S / TIME_SHARE:
            return False
        self._cut_at = now
        return True

    def prune(self) -> int:
        """Let go of what nothing needs any more since results were saved; return how many calls would be done again."""
        journal = self._notes.journal
        self._pruned = journal.order
        for handle, memory in list(journal.memories.items()):
            last = memory.last
            if last is not None and last.cuts is not None and handle in last.cuts and len(memory.handles) == 1:
                journal.made[handle] = last
                del journal.memories[handle]
        wanted = self._wanted()
        for record, _ in wanted.cuts:
            record.let_go()
        return sum(record.command is not None for record in wanted.whole)

    def _wanted(self) -> Wanted:
        journal = self._notes.journal
        return reach(need for handle in journal.made for need in journal.needs_of(handle))

    def let_go_of_oldest(self) -> bool:
        """Let go of the older half of the calls that would be done again, where they are too many.

        Returns whether that was so for the first time.

        What they made, and all that is computed from it, cannot be made again. So it is with training whose state is
        too large to be fetched, where each step follows from all before it.
        """
        again = sorted(
            (record for record in self._wanted().whole if record.command is not None), key=attrgetter("order")
        )
        if len(again) <= MAX_CALLS:
            return False
        for record in again[: len(again) // 2]:
            record.let_go()
            record.lost = TOO_LONG
        first, self._let_go = not self._let_go, True
        return first
