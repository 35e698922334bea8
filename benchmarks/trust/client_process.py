"""A process of a measurement that takes orders on its input, and answers each with a line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from dynamo_genie.bench.daemon import end
from dynamo_genie.child_process import child_environment, first_line
from dynamo_genie.errors import GenieError

START_LIMIT_S = 60.0


class OrderedClient:
    """Runs a module of ours; a process that ends early, or says nothing, is an error with the end of its log."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=child_environment(os.environ),
        )
        self._name = f"{module.rpartition('.')[2]} {self._process.pid}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def say(self, order: str) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self._process.stdin.write(f"{order}\n".encode())
            self._process.stdin.flush()

    def answer(self, limit_s: float) -> str:
        """Wait for the next line that it prints.

        Raises:
            GenieError: None comes.
        """
        line = first_line(self._process, limit_s)
        if not line:
            raise GenieError(f"{self._name} did not answer within {limit_s:g} s; its log ends:\n{self._tail()}")
        return line

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:].decode(errors="replace").strip()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        end(self._process)
        self._log.close()


@contextlib.contextmanager
def ordered_clients(module: str, arguments: Sequence[Sequence[str]]) -> Iterator[list[OrderedClient]]:
    """Start a process for each list of arguments, wait until all are ready, and end them afterwards."""
    with contextlib.ExitStack() as stack:
        clients = []
        for each in arguments:
            clients.append(OrderedClient(module, each))
            stack.callback(clients[-1].close)
        for client in clients:
            client.answer(START_LIMIT_S)
        yield clients
