"""The offloader of a device's memory: makes room in it, by dropping and offloading what is wanted least.

1. Weights that no session uses are freed, the least recently used first: they come back by their content.
2. Own tensors of idle sessions are offloaded, the longest idle session first, its largest tensors first, and reloaded
   when they are used.
3. Weights that only idle sessions use are offloaded likewise, in the same order of sessions.

The session whose command asks for room keeps all it has. Where device and host share their memory there is nowhere to
offload to, and only unused weights go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight, WeightStore

Enough: TypeAlias = Callable[[], bool]
"""Says whether there is room by now."""


class MemoryHolder(Protocol):
    """A session, as far as memory goes."""

    running: bool
    last_used: float

    @property
    def resident_nbytes(self) -> int:
        """Bytes of own tensors in the device's memory."""
        ...

    def offload(self, enough: Enough) -> None:
        """Move own tensors to host memory, the largest first, until there is enough room."""
        ...

    def weights(self) -> Sequence[ResidentWeight]:
        """Return the weights in use, one item for each use."""
        ...

    def drop_tensor(self, weight: ResidentWeight) -> None:
        """Drop the tensor of a weight that was offloaded; the next use reloads it."""
        ...


def longest_idle_first(sessions: Iterable[MemoryHolder]) -> list[MemoryHolder]:
    """Return the sessions whose memory may be taken, in the order in which it is."""
    return sorted((session for session in sessions if not session.running), key=lambda session: session.last_used)


class Offloader:
    """Makes room in the memory of one worker's device; used by the executor's thread.

    It is made before the stores and sessions whose memory it takes, and they are added as they come.

    Attributes:
        budget: Of that memory; whoever reserves more than is left makes the offloader work.
    """

    def __init__(self, limit: int) -> None:
        """Begin with nobody, in a memory of `limit` bytes."""
        self.budget = MemoryBudget(limit, make_room=self._make_room)
        self._weights: WeightStore | None = None
        self._sessions: list[MemoryHolder] = []

    def add_weights(self, weights: WeightStore) -> None:
        """Take from these weights first."""
        self._weights = weights

    def add_session(self, session: MemoryHolder) -> None:
        """Take from a session too, whenever it is idle."""
        self._sessions.append(session)

    def remove_session(self, session: MemoryHolder) -> None:
        """Forget a session that ended."""
        if session in self._sessions:
            self._sessions.remove(session)

    def free(self, nbytes: int) -> None:
        """Make `nbytes` of memory free, whatever the budget says; where so much cannot go, sessions keep theirs."""
        self._reduce(self.budget.taken - nbytes)

    def free_some(self, nbytes: int) -> bool:
        """Make `nbytes` of memory free, or else all that may go; return whether anything went."""
        before = self.budget.taken
        self._reduce(before - nbytes, or_all=True)
        return self.budget.taken < before

    def _make_room(self, nbytes: int) -> None:
        """Make room for `nbytes` within the budget; where they never would fit, sessions keep what they have."""
        if nbytes <= self.budget.limit:
            self._reduce(self.budget.limit - nbytes)

    def _reduce(self, goal: int, *, or_all: bool = False) -> None:
        """Free and offload until the budget's use is at most `goal`."""

        def enough() -> bool:
            return self.budget.taken <= goal

        if self._weights is None:
            return
        self._weights.free_unused(enough)
        if enough():
            return
        idle = longest_idle_first(self._sessions)
        weights = self._used_by_none_but(idle)
        movable = sum(session.resident_nbytes for session in idle) + sum(weight.nbytes for weight in weights)
        if self.budget.taken - movable > goal and not or_all:
            return
        for session in idle:
            session.offload(enough)
        for weight in weights:
            if enough():
                return
            if self._weights.offload(weight):
                for session in idle:
                    session.drop_tensor(weight)

    @staticmethod
    def _used_by_none_but(sessions: Sequence[MemoryHolder]) -> list[ResidentWeight]:
        """Return the weights that only these sessions use, in the order of the sessions that do."""
        found = {id(weight): weight for session in sessions for weight in session.weights()}
        uses = Counter(id(weight) for session in sessions for weight in session.weights())
        return [w for w in found.values() if w.tensor is not None and w.users == uses[id(w)]]
