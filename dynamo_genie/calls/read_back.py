"""What the program must have here before a call returns: collected while the call is sent, fetched once a daemon."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dynamo_genie.runtime.session.handles import Handle
from dynamo_genie.runtime.session.session import Session

Deliver = Callable[[torch.Tensor], object]


class ReadBack:
    """Values wanted from one or several sessions, and what to do with each when it is here."""

    def __init__(self) -> None:
        self._wanted: dict[Session, list[tuple[int, str, Deliver]]] = {}
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
        self._wanted.setdefault(session, []).append((handle_id, kind, deliver))

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do something once everything has been delivered."""
        self._afterwards.append(action)

    def fetch(self) -> None:
        """Fetch and deliver, with one round trip a session; every session must have been flushed before."""
        with torch.no_grad():
            for session, wanted in self._wanted.items():
                values = session.fetch([number for number, _, _ in wanted], [kind for _, kind, _ in wanted])
                for (_, _, deliver), value in zip(wanted, values, strict=True):
                    deliver(value)
            for action in self._afterwards:
                action()
