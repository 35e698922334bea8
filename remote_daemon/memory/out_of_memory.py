"""Lack of memory, as PyTorch and Python say it."""

from __future__ import annotations

import traceback

import torch


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was lacking for an error, or for what it was raised from; on the CPU, PyTorch says so in words."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
            return True
        error = error.__cause__
    return False


def let_go(error: BaseException | None) -> None:
    """Free what the frames hold in which an error was raised: the temporaries of a program that lacked memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__
