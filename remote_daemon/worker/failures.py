"""Exceptions of the worker as records that the client can raise again."""

from __future__ import annotations

import traceback

import torch

from dynamo_genie.remote_daemon.engines.eager import NodeError
from dynamo_genie.remote_daemon.worker.handle_table import PoisonedInput
from dynamo_genie.runtime.wire.limits import MAX_STRING
from dynamo_genie.runtime.wire.messages import ErrorInfo

MAX_TRACEBACK = 16_384


def describe_failure(error: BaseException, operator: str = "", program: int = -1) -> ErrorInfo:
    """Return what the client needs to raise the error that eager PyTorch would raise, and to find its line."""
    if isinstance(error, PoisonedInput):
        return error.error
    node = -1
    if isinstance(error, NodeError) and error.__cause__ is not None:
        node, operator, error = error.node, error.operator, error.__cause__
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return ErrorInfo(
        kind="OutOfMemoryError" if is_out_of_memory(error) else type(error).__name__,
        message=str(error)[:MAX_TRACEBACK],
        operator=operator[:MAX_STRING],
        program=program,
        node=node,
        traceback=trace[-MAX_TRACEBACK:],
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was lacking: on the CPU, PyTorch says so in a plain `RuntimeError`."""
    if isinstance(error, NodeError):
        return is_out_of_memory(error.__cause__)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
