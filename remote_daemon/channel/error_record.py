"""The record of an exception, as it goes over the wire."""

from __future__ import annotations

import traceback

from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import MAX_STRING
from dynamo_genie.runtime.wire.messages import ErrorInfo

MAX_TRACEBACK = 16_384


def error_record(
    error: BaseException, operator: str = "", *, program: int = -1, node: int = -1, kind: str = ""
) -> ErrorInfo:
    """Return what the client needs to raise an error again; `kind` in place of its class where it is given."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return ErrorInfo(
        kind=kind or error_code(error),
        message=str(error)[:MAX_TRACEBACK],
        operator=operator[:MAX_STRING],
        program=program,
        node=node,
        traceback=trace[-MAX_TRACEBACK:],
    )
