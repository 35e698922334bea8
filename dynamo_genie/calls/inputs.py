"""The arguments of one call of one program, on their way to its session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dynamo_genie.errors import StaleHandleError
from dynamo_genie.runtime.session.handles import Handle
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensor.remote_tensor import RemoteTensor

Move = Callable[[Handle, Session, str], Handle]
"""Brings what a handle names to another session, counted under a tensor class."""


def handle_of(value: Any) -> Handle | None:
    """Return the handle behind a remote tensor or a carrier, None for anything local."""
    if isinstance(value, RemoteTensor):
        return value.handle
    return getattr(value, "genie_handle", None) if isinstance(value, torch.Tensor) else None


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether elements share memory because a dimension has stride 0; kernels take another path for those."""
    return 0 in tensor.stride() and any(st == 0 and n > 1 for n, st in zip(tensor.shape, tensor.stride(), strict=True))


def written_kind(kind: str) -> str:
    """Return the tensor class under which an input of this class counts when it comes back with what was written."""
    return "output" if kind == "input" else kind


class CallInputs:
    """Turns values into what a `Call` carries; keeps alive what it names until the call is posted.

    Attributes:
        written: Local tensors that the program writes into, with the handles of their copies; a handle's `kind` is the
            class under which what was written counts.
    """

    def __init__(self, session: Session, mutated: tuple[int, ...], move: Move) -> None:
        self._session = session
        self._mutated = mutated
        self._move = move
        self._kept: list[Handle] = []
        self.written: list[tuple[torch.Tensor, Handle]] = []

    def add(self, position: int, value: Any, kind: str) -> m.CallInput:
        """Send one argument; `kind` is the tensor class under which its bytes are counted.

        Raises:
            StaleHandleError: The program writes into it, and it lives on another daemon.
        """
        handle = value if isinstance(value, Handle) else None
        if handle is None:
            if not isinstance(value, torch.Tensor):
                return 0 if value is None else value  # an input nobody reads may be None
            handle = handle_of(value)
        if handle is None:
            return self._add_local(position, value, kind)
        if handle.session is not self._session:
            self._refuse_to_write_a_copy(position)
            handle = self._move(handle, self._session, kind)
        self._kept.append(handle)
        return handle.id

    def _refuse_to_write_a_copy(self, position: int) -> None:
        """Raise where the program would write into a copy of a tensor, and its original would never know."""
        if position in self._mutated:
            raise StaleHandleError(
                f"the compiled call writes into its input {position}, which lives on another daemon; "
                "name both in daemons=[...], or copy the tensor first"
            )

    def _add_local(self, position: int, value: torch.Tensor, kind: str) -> m.CallInput:
        written = position in self._mutated
        if not written:
            inline = None if is_expanded(value) else self._session.inline(value, kind)
            if inline is not None:
                return inline
        handle = self._put(value.detach(), kind)
        if written:
            handle.kind = written_kind(kind)
            self.written.append((value, handle))
        self._kept.append(handle)
        return handle.id

    def _put(self, value: torch.Tensor, kind: str) -> Handle:
        """Send a local tensor; of an expanded one, what is repeated goes once and is expanded there."""
        if not is_expanded(value):
            return self._session.put(value, kind)
        shape = [1 if st == 0 else n for n, st in zip(value.shape, value.stride(), strict=True)]
        base = value.as_strided(shape, value.stride())
        handle = self._session.put(base, kind)
        expanded = handle_of(RemoteTensor(base.shape, base.stride(), base.dtype, handle).expand(value.shape))
        assert expanded is not None
        return expanded
