"""The record of an exception, as it goes over the wire."""

from __future__ import annotations

import traceback

from dynamo_genie.machine_paths import for_clients
from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import MAX_STRING
from dynamo_genie.runtime.wire.messages import ErrorInfo

MAX_TRACEBACK = 16_384


def error_record(
    error: BaseException,
    operator: str = "",
    *,
    program: int = -1,
    node: int = -1,
    kind: str = "",
    own_words: bool = False,
) -> ErrorInfo:
    """Return what the client needs to raise an error again.

    Args:
        error: What was raised.
        operator, program, node: Where.
        kind: Takes the place of the error's class.
        own_words: The message is the client's, so it goes back as it is; others name no paths of this machine.
    """
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return ErrorInfo(
        kind=kind or error_code(error),
        message=(str(error) if own_words else for_clients(str(error)))[:MAX_TRACEBACK],
        operator=operator[:MAX_STRING],
        program=program,
        node=node,
        traceback=for_clients(trace)[-MAX_TRACEBACK:],
    )
