"""A watch on the executor's thread, from another one: how long its operator has been running, and how to interrupt it.

The running program pays nothing for it. An operator is a line of the eager engine's generated function, so a loop is
one with all of its turns; where other engines run a program, it is one as a whole; so is any other command.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from types import FrameType

from dynamo_genie.errors import ProgramCancelled
from dynamo_genie.remote_daemon.engines.eager import FIRST_NODE_LINE, PROGRAM_FILE_NAME
from dynamo_genie.remote_daemon.worker.attached_sessions import Stream
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.executor import Executor
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession

_EXECUTE, _ADVANCE = WorkerSession.execute.__code__, CommandStream._advance.__code__
_WORK = (_EXECUTE, Executor._wait_for_launched.__code__)


class OperatorWatch:
    """Watches the thread `thread`, which runs an `Executor`. Call `look` regularly, always from the same thread."""

    def __init__(self, thread: int, commands: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """Watch; `commands` returns how many commands the executor has begun so far."""
        self._thread = thread
        self._commands = commands
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def look(self) -> tuple[float, str]:
        """Return for how long what runs now was seen running, in seconds, and what it is; 0 where nothing runs."""
        now = self._clock()
        work, program = _find(sys._current_frames().get(self._thread))
        if work is None:
            self._seen = None
            return 0.0, ""
        line = program.f_lineno if program is not None else 0
        seen = (self._commands(), line)
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since, _name(program, line)

    def interrupt(self, unwanted: Callable[[Stream], bool]) -> bool:
        """Let the program that runs now fail at its next operator if nobody waits for what it makes; say whether.

        A program that writes to its inputs goes on unless its session has ended. Only a thread that is in an operator
        of a generated function is interrupted: anywhere else the exception would come in the middle of keeping books.
        """
        frame = sys._current_frames().get(self._thread)
        if frame is None or frame.f_code.co_filename != PROGRAM_FILE_NAME:
            return False
        execute = advance = None
        while frame is not None and advance is None:
            execute = frame if frame.f_code is _EXECUTE else execute
            advance = frame if frame.f_code is _ADVANCE else None
            frame = frame.f_back
        if execute is None or advance is None:
            return False
        stream: Stream = advance.f_locals["self"]
        session: WorkerSession = execute.f_locals["self"]
        if not unwanted(stream) or (session.writes(execute.f_locals["command"]) and not stream.ended):
            return False
        raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread), ctypes.py_object(ProgramCancelled)
        )
        return bool(raised == 1)


def _find(frame: FrameType | None) -> tuple[FrameType | None, FrameType | None]:
    """Return the frame that does an executor's work, and the outermost one of a generated function, if there is one."""
    program = None
    while frame is not None:
        if frame.f_code.co_filename == PROGRAM_FILE_NAME:
            program = frame
        if frame.f_code in _WORK:
            return frame, program
        frame = frame.f_back
    return None, None


def _name(program: FrameType | None, line: int) -> str:
    if program is None:
        return "a command"
    return f"operator {line - FIRST_NODE_LINE} of a program"
