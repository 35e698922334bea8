"""Turns an error code from the wire into the error class it names, and only into one of ours."""

from __future__ import annotations

from dynamo_genie import errors

_CLASSES: dict[str, type[errors.GenieError]] = {
    cls.__name__: cls
    for cls in (
        errors.OptionError,
        errors.DaemonUnavailable,
        errors.SessionLost,
        errors.RequestTimeout,
        errors.ProtocolError,
        errors.VersionMismatch,
        errors.AuthenticationError,
        errors.QuotaExceeded,
        errors.UnsupportedOperator,
        errors.StaleHandleError,
    )
}


def error_from_code(code: str, message: str) -> errors.GenieError:
    """Return the error that `code` names; a name that is not in the tree becomes a `RemoteError`."""
    cls = _CLASSES.get(code)
    return cls(message) if cls is not None else errors.RemoteError(f"{code}: {message}")
