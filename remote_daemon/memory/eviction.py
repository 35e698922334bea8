"""Makes room in a device's memory: what goes, and in which order.

1. Weights that no session uses, the least recently used first: they come back by their content.
2. What idle sessions hold, the longest idle session first, its largest tensors first: moved to host memory, and back
   when it is used.
3. Weights that only idle sessions use, in the same order of sessions: moved likewise.

The session whose command asks for room keeps all it has. Where device and host share their memory there is nowhere to
move to, and only unused weights go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight, WeightStore

Enough: TypeAlias = Callable[[], bool]
"""Says whether there is room by now."""


class Holder(Protocol):
    """A session, as far as memory goes."""

    running: bool
    last_used: float

    @property
    def resident_nbytes(self) -> int:
        """Bytes of own tensors in the device's memory."""
        ...

    def evict(self, enough: Enough) -> None:
        """Move own tensors to host memory, the largest first, until there is enough room."""
        ...

    def weights(self) -> Sequence[ResidentWeight]:
        """Return the weights in use, one item for each use."""
        ...

    def unload(self, weight: ResidentWeight) -> None:
        """Let go of the tensor of a weight that was moved; the next use brings it back."""
        ...


def longest_idle_first(sessions: Iterable[Holder]) -> list[Holder]:
    """Return the sessions whose memory may be taken, in the order in which it is."""
    return sorted((session for session in sessions if not session.running), key=lambda session: session.last_used)


class Evictions:
    """Gives memory of one worker's device back; used by the executor's thread."""

    def __init__(
        self,
        budget: MemoryBudget,
        weights: WeightStore,
        sessions: Callable[[], Iterable[Holder]],
    ) -> None:
        self._budget = budget
        self._weights = weights
        self._sessions = sessions

    def make_room(self, nbytes: int) -> None:
        """Evict until `nbytes` more would fit in the budget; where they never would, sessions keep what they have."""
        if nbytes <= self._budget.limit:
            self._evict(self._budget.limit - nbytes)

    def free(self, nbytes: int) -> None:
        """Evict `nbytes`, whatever the budget says; where so much cannot go, sessions keep what they have."""
        self._evict(self._budget.used - nbytes)

    def free_some(self, nbytes: int) -> bool:
        """Evict `nbytes`, or else all that may go; return whether anything went."""
        before = self._budget.used
        self._evict(before - nbytes, or_all=True)
        return self._budget.used < before

    def _evict(self, goal: int, *, or_all: bool = False) -> None:
        """Evict until the budget's use is at most `goal`."""

        def enough() -> bool:
            return self._budget.used <= goal

        self._weights.drop_unused(enough)
        if enough():
            return
        idle = longest_idle_first(self._sessions())
        spillable = self._used_by_none_but(idle)
        movable = sum(session.resident_nbytes for session in idle) + sum(weight.nbytes for weight in spillable)
        if self._budget.used - movable > goal and not or_all:
            return
        for session in idle:
            session.evict(enough)
        for weight in spillable:
            if enough():
                return
            if self._weights.spill(weight):
                for holder in idle:
                    holder.unload(weight)

    @staticmethod
    def _used_by_none_but(sessions: Sequence[Holder]) -> list[ResidentWeight]:
        """Return the weights that only these sessions use, in the order of the sessions that do."""
        found = {id(weight): weight for session in sessions for weight in session.weights()}
        uses = Counter(id(weight) for session in sessions for weight in session.weights())
        return [w for w in found.values() if w.tensor is not None and w.users == uses[id(w)]]
