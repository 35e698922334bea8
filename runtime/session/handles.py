"""Names for tensors that live in a session. A handle's last reference frees the tensor, in a batch with others."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo_genie.runtime.session.session import Session


class Handle:
    """Owns one id of a session.

    Finalizers may run anywhere, even inside the session's own lock, so dying only appends the id to the
    session's deque (an atomic operation); the next message carries it.

    Attributes:
        root: The id of the handle whose memory this one views; its own id when it views none.
        root_nbytes: The size of that memory; 0 when this handle views none.
        kind: The tensor class under which its bytes are counted when they are fetched.
    """

    __slots__ = ("__weakref__", "_released", "id", "kind", "root", "root_nbytes", "session")

    def __init__(self, handle_id: int, session: Session, released: deque[int]) -> None:
        self.id = handle_id
        self.root = handle_id
        self.root_nbytes = 0
        self.kind = "output"
        self.session = session
        self._released = released

    def __del__(self) -> None:
        self._released.append(self.id)
