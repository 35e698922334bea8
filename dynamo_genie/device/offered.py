"""Weights that move to a device: one that its daemon has, in a file or for another session, is not sent."""

from __future__ import annotations

import sys

import torch

from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.tensors import lies_dense

ALONE = 2
"""References to a handle that one tensor has: the tensor's, and that of who counts."""


def take_from_daemon(target: DeviceTensor, source: torch.Tensor) -> bool:
    """Let a tensor be what the daemon has of a parameter that is copied into it, where it has that; say whether it is.

    PyTorch moves a parameter by making an empty tensor and copying into it; the empty one is given up. So it must be
    one that was never written, and whose memory nobody else sees: no view, nor another tensor of the same handle.
    """
    if type(source) is not torch.nn.Parameter or source.nbytes <= MAX_INLINE_NBYTES or not _fits(target, source):
        return False
    session = target.named().session
    if not _is_new(target) or target.memory.nbytes or sys.getrefcount(target.handle) > ALONE:
        return False
    handle = session.new_handle()
    with session.lock:
        session.check()
        if not session.weight_channel.offer(handle.id, source.detach()):
            return False
    target.become(DeviceTensor(tuple(source.shape), source.stride(), source.dtype, handle))
    return True


def _is_new(target: DeviceTensor) -> bool:
    return not target.requires_grad and (target.is_inference() or target._version == 0)


def _fits(target: DeviceTensor, source: torch.Tensor) -> bool:
    return (
        source.device.type == "cpu"
        and lies_dense(source)
        and (target.dtype, target.shape, target.stride()) == (source.dtype, source.shape, source.stride())
        and not target.storage_offset()
    )
