"""An engine: something that runs one program, and says so when it cannot.

An engine is called like the eager executable: with the inputs in order, in a list that it empties. It must give what
eager gives. One that finds, before it has changed anything, that it cannot run the program raises `Unfit`; the program
then runs eager for good, and whoever called it is told once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from dynamo_genie.engines import EAGER
from dynamo_genie.machine_paths import for_clients

log = logging.getLogger(__name__)

Executable: TypeAlias = Callable[[list[Any]], tuple[Any, ...]]
"""A compiled program: tensors and numbers in, values out; empties the list, so that inputs can die early."""


class NodeError(Exception):
    """A node of a program failed; `__cause__` is what PyTorch raised."""

    def __init__(self, node: int, operator: str) -> None:
        super().__init__(f"node {node} ({operator}) failed")
        self.node = node
        self.operator = operator


class Unfit(Exception):
    """An engine cannot run a program; nothing was changed. The message says why, for people."""


class NotNow(Exception):
    """Something cannot be done at the moment; nothing was changed, and later it may be."""


class RunningProgram:
    """A program with the engine that runs it.

    Attributes:
        engine: The engine's name.
        reason: Why this one.
        fell_back: Whether another engine was wanted and `eager` had to take its place.
        calls: How often it was called.
    """

    def __init__(
        self, name: str, eager: Executable, engine: str, reason: str, fast: Executable | None, *, fell_back: bool
    ) -> None:
        """Run `fast`, whose name is `engine`, where it is given, else `eager`; `name` is the program's, for the log."""
        self._name = name
        self._eager = eager
        self._fast = fast
        self.engine = engine
        self.reason = reason
        self.fell_back = fell_back
        self.calls = 0
        if fell_back:
            self._warn()

    def __call__(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Run the program; empties `inputs`."""
        self.calls += 1
        if self._fast is None:
            return self._eager(inputs)
        try:
            return self._fast(inputs)
        except Unfit as error:
            self._fast = None
            self.reason = for_clients(f"{self.engine} failed: {error}")
            self.engine, self.fell_back = EAGER, True
            self._warn()
        return self._eager(inputs)

    def _warn(self) -> None:
        log.warning("program %s runs eager: %s", self._name, self.reason)
