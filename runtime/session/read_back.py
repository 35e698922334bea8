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
        self._otherwise: list[Callable[[], None]] = []

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

    def afterwards(self, action: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Do something once everything has been delivered, or something else where that cannot be."""
        self._afterwards.append(action)
        self._otherwise.append(otherwise)

    def fetch(self) -> None:
        """Fetch and deliver, with one round trip a session; every session must have been flushed before.

        What has an error is not delivered, and the first one is raised when everything else has been.
        """
        if not self._wanted:
            return
        try:
            with torch.no_grad():
                self._deliver()
                for action in self._afterwards:
                    action()
        except BaseException:
            for action in self._otherwise:
                action()
            raise

    def receive(self) -> Iterator[tuple[Deliver, torch.Tensor | Exception]]:
        """Fetch; give each value, or its error, with what it is to be handed to."""
        for session, (ids, kinds, delivers) in self._wanted.items():
            yield from zip(delivers, session.fetch_each(ids, kinds), strict=True)

    def _deliver(self) -> None:
        errors: list[Exception] = []
        for deliver, value in self.receive():
            if isinstance(value, Exception):
                errors.append(value)
            else:
                deliver(value)
        if errors:
            raise errors[0]
