"""A client process of the study, from its runner's side."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from dynamo_genie.bench.study.orders import ClientAnswer, Order, Ready, RepeatDone, Trouble
from dynamo_genie.child_process import child_environment
from dynamo_genie.errors import GenieError

SETUP_LIMIT_S = 1200.0
REPEAT_LIMIT_S = 600.0
END_LIMIT_S = 3.0
"""A client that computes hears nothing; then it is killed, which loses nothing."""
KILL_LIMIT_S = 20.0

A = TypeVar("A", Ready, RepeatDone)


class ClientProcess:
    """Gives orders to a client; every wait is bounded, and its end comes with the error that it printed."""

    def __init__(self, name: str, command: Callable[[Sequence[str]], list[str]]) -> None:
        """Start a client; `command` says how to run something on its host."""
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._decoder = msgspec.json.Decoder(ClientAnswer)
        self._process = subprocess.Popen(
            command([sys.executable, "-m", "dynamo_genie.bench.study.client"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=child_environment(os.environ),
        )
        self._rest = b""

    def say(self, order: Order) -> None:
        """Give an order; `ready` or `done` waits for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def ready(self) -> Ready:
        """Wait for the answer to `Setup`."""
        return self._answer(Ready, SETUP_LIMIT_S)

    def done(self) -> RepeatDone:
        """Wait for the answer to `Repeat`."""
        return self._answer(RepeatDone, REPEAT_LIMIT_S)

    def close(self) -> None:
        """Let it end with its input, then make it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):  # an order that it did not take is still to be flushed
            self._process.stdin.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.stdout.close()
        self._process.wait(KILL_LIMIT_S)
        self._log.close()

    def _answer(self, expected: type[A], limit_s: float) -> A:
        answer = self._decoder.decode(self._line(limit_s))
        if isinstance(answer, Trouble):
            raise GenieError(f"{self.name}: {answer.error}")
        if not isinstance(answer, expected):
            raise GenieError(f"{self.name}: expected {expected.__name__}, got {type(answer).__name__}")
        return answer

    def _line(self, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise GenieError(f"{self.name} did not answer within {limit_s:g} s; its log ends: {self._tail()}")
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise self._ended()
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self) -> GenieError:
        return GenieError(f"{self.name} ended unexpectedly; its log ends: {self._tail()}")

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:].decode(errors="replace").strip()
