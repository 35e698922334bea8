"""Failures of the daemon as the exceptions that eager PyTorch would have raised."""

from __future__ import annotations

import builtins
from types import MappingProxyType

import torch

from dynamo_genie import errors
from dynamo_genie.runtime.wire.messages import ErrorInfo


class RemoteOutOfMemory(errors.GenieError, torch.OutOfMemoryError):
    """The daemon's device has no memory left for a tensor or an operator; free something or use a larger one."""


def _known_classes() -> dict[str, type[Exception]]:
    names = (
        "RuntimeError IndexError ValueError TypeError NotImplementedError ZeroDivisionError OverflowError "
        "ArithmeticError AssertionError KeyError MemoryError"
    )
    classes: dict[str, type[Exception]] = {name: getattr(builtins, name) for name in names.split()}
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.GenieError):
            classes[value.__name__] = value
    classes["OutOfMemoryError"] = RemoteOutOfMemory
    classes["LinAlgError"] = classes["_LinAlgError"] = torch.linalg.LinAlgError
    return classes


KNOWN_CLASSES = MappingProxyType(_known_classes())


def to_exception(error: ErrorInfo, line: str | None) -> Exception:
    """Return the exception for a failure, with the operator, the client's line and the remote traceback."""
    known = KNOWN_CLASSES.get(error.kind)
    if known is None or not error.operator:
        line = None
    where = f"\n  in {error.operator}" + (f", called at {line}" if line else "") if error.operator else ""
    trace = f"\n  remote traceback:\n{error.traceback}" if error.traceback else ""
    if known is None:
        return errors.RemoteError(f"{error.kind}: {error.message}{where}{trace}")
    return known(f"{error.message}{where}{trace}")
