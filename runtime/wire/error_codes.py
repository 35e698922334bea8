"""The table of error codes: names of exception classes, as they go over the wire, and only the ones listed here."""

from __future__ import annotations

from types import MappingProxyType

from dynamo_genie import errors

_BUILTIN = (
    RuntimeError, IndexError, ValueError, TypeError, NotImplementedError, ZeroDivisionError, OverflowError,
    ArithmeticError, AssertionError, KeyError, MemoryError,
)  # fmt: skip

_OURS = (
    errors.GenieError, errors.OptionError, errors.DaemonUnavailable, errors.SessionLost, errors.RequestTimeout,
    errors.ProtocolError, errors.VersionMismatch, errors.AuthenticationError, errors.QuotaExceeded,
    errors.ProgramQuarantined, errors.ProgramCancelled, errors.UnsupportedOperator, errors.StaleHandleError,
    errors.NotRecoverable, errors.ModelFileError,
    errors.NoMemoryHere, errors.RemoteError,
)  # fmt: skip

ERROR_CLASSES: MappingProxyType[str, type[Exception]] = MappingProxyType(
    {cls.__name__: cls for cls in _BUILTIN + _OURS}
)
"""The class that each code names."""


def error_code(error: BaseException) -> str:
    """Return the code of an error: its class, which the other side may or may not know."""
    return type(error).__name__


def error_from_code(code: str, message: str) -> errors.GenieError:
    """Return the error of ours that `code` names; any other becomes a `RemoteError`."""
    cls = ERROR_CLASSES.get(code)
    if cls is not None and issubclass(cls, errors.GenieError):
        return cls(message)
    return errors.RemoteError(f"{code}: {message}")
