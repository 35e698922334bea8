"""A background thread for long work that is never waited for when the worker ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """A thread that does jobs one after the other. It starts with the first, and ends with the process.

    `concurrent.futures` has the same in its executors, but the interpreter waits for their threads: a worker that is
    told to end would first finish compiling.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: Future[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is not done yet; for the thread that submits them, false stays false until it submits one."""
        return self._last is not None and not self._last.done()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done; the future has its result, or what it raised. Called from one thread."""
        future: Future[T] = Future()
        self._last = future
        self._jobs.put((future, job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return future

    def _run(self) -> None:
        while True:
            future, job = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
                future.set_exception(error)
