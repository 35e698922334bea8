"""Operators on remote tensors, outside compiled code, that no daemon runs: refused, or announced and counted."""

from __future__ import annotations

import os
import traceback

from dynamo_genie.connections.client_work import ClientOperator
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.lowering.arguments import unsupported
from dynamo_genie.options import resolve_options
from dynamo_genie.torch_internals.operators import OpOverload

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_TORCH = f"{os.sep}site-packages{os.sep}torch{os.sep}"


def announce_eager(func: OpOverload) -> None:
    """Say that an operator is about to run here on the values of its remote arguments.

    Raises:
        UnsupportedOperator: The environment says that such operators are refused; there are no other options here.
    """
    line = _line_of_the_program()
    what = f"operator {func}"
    if resolve_options(None, os.environ).unsupported == "error":
        raise unsupported(what, line)
    operator = ClientOperator(str(func), what, line)
    CONNECTIONS.client_work.announce(operator, "each time it waits until its remote arguments are fetched")
    CONNECTIONS.client_work.ran([operator])


def _line_of_the_program() -> str | None:
    """Return the innermost line that is neither ours nor torch's, as in a stack trace."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_OURS) and _TORCH not in frame.filename:
            return f'File "{frame.filename}", line {frame.lineno}, in {frame.name}: {frame.line}'
    return None
