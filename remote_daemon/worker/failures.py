"""The failure of a session's command as a record that the client can raise again."""

from __future__ import annotations

from dynamo_genie.remote_daemon.channel.error_record import error_record
from dynamo_genie.remote_daemon.engines.engine import NodeError
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory
from dynamo_genie.remote_daemon.worker.handle_table import PoisonedInput
from dynamo_genie.runtime.wire.messages import ErrorInfo


def describe_failure(error: BaseException, operator: str = "", program: int = -1) -> ErrorInfo:
    """Return what the client needs to raise the error that eager PyTorch would raise, and to find its line."""
    if isinstance(error, PoisonedInput):
        return error.error
    node = -1
    if isinstance(error, NodeError) and error.__cause__ is not None:
        node, operator, error = error.node, error.operator, error.__cause__
    kind = "OutOfMemoryError" if is_out_of_memory(error) else ""
    return error_record(error, operator, program=program, node=node, kind=kind)
