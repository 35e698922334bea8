"""Failures of the daemon as the exceptions that eager PyTorch would have raised."""

from __future__ import annotations

from types import MappingProxyType

import torch

from dynamo_genie.errors import GenieError, QuotaExceeded, RemoteError
from dynamo_genie.runtime.wire.error_codes import ERROR_CLASSES
from dynamo_genie.runtime.wire.messages import ErrorInfo


class RemoteOutOfMemory(GenieError, torch.OutOfMemoryError):
    """The daemon's device has no memory left for a tensor or an operator; free something or use a larger one."""


class MemoryQuotaExceeded(QuotaExceeded, torch.OutOfMemoryError):
    """The daemon's memory limit was reached; programs that try a smaller batch then catch it as they do a device's."""


FAILURE_CLASSES: MappingProxyType[str, type[Exception]] = MappingProxyType(
    {
        **ERROR_CLASSES,
        "OutOfMemoryError": RemoteOutOfMemory,
        "QuotaExceeded": MemoryQuotaExceeded,
        "LinAlgError": torch.linalg.LinAlgError,
        "_LinAlgError": torch.linalg.LinAlgError,
    }
)
"""The table of error codes with those of torch, which the rest of the wire can do without."""


def to_exception(error: ErrorInfo, line: str | None = None, call: str = "") -> Exception:
    """Return the exception for a failure, with the operator, the client's line, the call and the remote traceback."""
    known = FAILURE_CLASSES.get(error.kind)
    if known is None or not error.operator:
        line = None
    where = f"\n  in {error.operator}" + (f", called at {line}" if line else "") if error.operator else ""
    where += f"\n  {call}" if call else ""
    trace = f"\n  remote traceback:\n{error.traceback}" if error.traceback else ""
    if known is None:
        return RemoteError(f"{error.kind}: {error.message}{where}{trace}")
    return known(f"{error.message}{where}{trace}")
