"""The failure of a session's command as a record that the client can raise again."""

from __future__ import annotations

import msgspec

from dynamo_genie.remote_daemon.channel.error_record import error_record
from dynamo_genie.remote_daemon.engines.engine import NodeError
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory
from dynamo_genie.remote_daemon.operators.words import ASSERTIONS
from dynamo_genie.remote_daemon.worker.handle_table import PoisonedInput
from dynamo_genie.runtime.wire.messages import ErrorInfo

ADVICE = (
    "what a program makes on the way counts against the worker's limit, too: free tensors, compute in smaller pieces, "
    "or start the daemon with a larger --memory-limit"
)


class FailedDraw(Exception):
    """A program failed that draws random numbers; carries the generator's state, which may have advanced by then."""

    def __init__(self, state: bytes) -> None:
        super().__init__()
        self.state = state


def state_after(error: Exception) -> bytes:
    """Return the state in which a failed call left the generator; nothing where it had drawn no number."""
    return error.state if isinstance(error, FailedDraw) else b""


def describe_failure(error: BaseException, operator: str = "", program: int = -1) -> ErrorInfo:
    """Return what the client needs to raise the error that eager PyTorch would raise, and to find its line."""
    if isinstance(error, PoisonedInput):
        return error.error
    if isinstance(error, FailedDraw) and error.__cause__ is not None:
        error = error.__cause__
    node = -1
    if isinstance(error, NodeError) and error.__cause__ is not None:
        node, operator, error = error.node, error.operator, error.__cause__
    own_words = operator in ASSERTIONS
    if is_out_of_memory(error):
        failure = error_record(error, operator, program=program, node=node, kind="OutOfMemoryError")
        return msgspec.structs.replace(failure, message=_with_advice(failure.message))
    return error_record(error, operator, program=program, node=node, own_words=own_words)


def _with_advice(message: str) -> str:
    """Return a message about lack of memory that says what to do."""
    return message if "-memory-limit" in message else f"{message or 'no memory is left'}; {ADVICE}"
