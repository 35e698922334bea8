"""What the program must have here before a call returns: collected while the call is sent, fetched once a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from dynamo_genie.runtime.session.session import Handle, Session

Deliver = Callable[[torch.Tensor], object]


class ReadBack:
    """Values wanted from one or several sessions, and what to do with each when it is here."""

    def __init__(self) -> None:
        self._wanted: dict[Session, tuple[list[int], list[str], list[Deliver]]] = {}
        self._kept: list[Handle] = []
        self._afterwards: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def want_handle(self, handle: Handle, kind: str, deliver: Deliver) -> None:
        """Fetch what a handle names, which stays alive until then."""
        self._kept.append(handle)
        self.want(handle.session, handle.id, kind, deliver)

    def want(self, session: Session, handle_id: int, kind: str, deliver: Deliver) -> None:
        """Fetch a value and hand it to `deliver`; its bytes count under the tensor class `kind`."""
        ids, kinds, delivers = self._wanted.setdefault(session, ([], [], []))
        ids.append(handle_id)
        kinds.append(kind)
        delivers.append(deliver)

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do something once everything has been delivered."""
        self._afterwards.append(action)

    def fetch(self) -> None:
        """Fetch and deliver, with one round trip a session; every session must have been flushed before."""
        if not self._wanted:
            return
        with torch.no_grad():
            for deliver, value in self.receive():
                deliver(value)
            for action in self._afterwards:
                action()

    def receive(self) -> Iterator[tuple[Deliver, torch.Tensor]]:
        """Fetch; give each value with what it is to be handed to."""
        for session, (ids, kinds, delivers) in self._wanted.items():
            yield from zip(delivers, session.fetch(ids, kinds), strict=True)
