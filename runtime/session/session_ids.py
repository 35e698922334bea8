"""The ids of one session: minted by the client, so that a result needs no round trip, and freed in batches."""

from __future__ import annotations

from collections import deque


class SessionIds:
    """Ids of handles, programs and bindings, and numbers of requests. All but `dead.append` needs the session's lock.

    Attributes:
        last: The id that was minted last.
        last_request: The number of the last request.
        dead: Ids whose handles died. Finalizers append to it, in any thread and at any point.
    """

    def __init__(self) -> None:
        self.last = 0
        self.last_request = 0
        self.dead: deque[int] = deque()
        self._freed: list[int] = []
        self._handles = 0
        self._buried = 0

    def mint(self) -> int:
        """Return a fresh id that belongs to no handle."""
        self.last += 1
        return self.last

    def mint_handle(self) -> int:
        """Return a fresh id for a handle, which appends it to `dead` when it dies."""
        self._handles += 1
        self.last += 1
        return self.last

    def request(self) -> int:
        """Return a fresh number for a command that is answered."""
        self.last_request += 1
        return self.last_request

    @property
    def live_handles(self) -> int:
        """How many handles there are."""
        return self._handles - self._buried - len(self.dead)

    def free(self, number: int) -> None:
        """Free an id made by `mint`."""
        self._freed.append(number)

    @property
    def released(self) -> bool:
        """Whether the worker has yet to hear of freed ids."""
        return bool(self.dead or self._freed)

    @property
    def gives_up_weights(self) -> bool:
        """Whether ids made by `mint` are among those."""
        return bool(self._freed)

    def dying(self) -> set[int]:
        """Return the ids whose handles died and that the worker has yet to hear of."""
        return {self.dead[i] for i in range(len(self.dead))}  # a finalizer may append meanwhile

    def take_released(self) -> tuple[int, ...]:
        """Return the ids freed since the last call."""
        dead = [self.dead.popleft() for _ in range(len(self.dead))]
        self._buried += len(dead)
        freed, self._freed = self._freed, []
        return (*dead, *freed)
