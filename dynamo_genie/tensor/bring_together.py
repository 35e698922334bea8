"""An operator's remote arguments may live on several daemons: this brings them to one, from daemon to daemon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import locked
from dynamo_genie.errors import StaleHandleError
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.tensor.remote_tensor import RemoteTensor, handle_of
from dynamo_genie.tensors import is_dense


def gather(tensors: Sequence[torch.Tensor], fixed: Sequence[RemoteTensor]) -> tuple[Session, list[torch.Tensor]]:
    """Return the session on which an operator runs, and its tensors, the remote ones among them all there.

    Args:
        tensors: All tensor arguments, local ones included.
        fixed: The remote ones that the operator writes or whose memory its result shares: they stay where they are.

    Raises:
        StaleHandleError: The arguments cannot come together: a session is over, or `fixed` names several.
    """
    sessions = [handle.session for tensor in tensors if (handle := handle_of(tensor)) is not None]
    if sessions.count(sessions[0]) == len(sessions):
        return sessions[0], list(tensors)
    for session in sessions:
        session.check()
    target = _target(tensors, fixed)
    with locked(sessions):
        return target, [_bring(tensor, target) for tensor in tensors]


def _target(tensors: Sequence[torch.Tensor], fixed: Sequence[RemoteTensor]) -> Session:
    """Return the session of what must stay, else the one that has most of the bytes (the first of equals)."""
    staying = {handle.session: None for tensor in fixed if (handle := handle_of(tensor)) is not None}
    if len(staying) > 1:
        raise StaleHandleError("an operator writes into remote tensors of several daemons; copy one of them first")
    if staying:
        return next(iter(staying))
    nbytes: Counter[Session] = Counter()
    for tensor in tensors:
        if (handle := handle_of(tensor)) is not None:
            nbytes[handle.session] += tensor.nbytes
    return max(nbytes, key=lambda session: nbytes[session])


def _bring(tensor: torch.Tensor, target: Session) -> torch.Tensor:
    handle = handle_of(tensor)
    if handle is None or handle.session is target:
        return tensor
    moved = CONNECTIONS.mesh.move(handle, target)
    shape, stride = tuple(tensor.shape), tensor.stride()
    if not is_dense(shape, stride):
        stride = torch.empty_like(torch.empty_strided(shape, stride, device="meta")).stride()  # as it arrives
    return type(tensor)(shape, stride, tensor.dtype, moved)
