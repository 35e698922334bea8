"""A progress bar for weights that take long; the rest of the runtime does not know how it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

LONG_NBYTES = 64 << 20
"""Uploads up to this size are done before a bar would have been read."""

STEP_NBYTES = 16 << 20
"""The bar moves on after so many bytes: drawing it after every chunk would cost some of the speed it shows."""


@contextmanager
def weights_bar(nbytes: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr for `nbytes` of weights; call what this gives with the bytes done since the last call."""
    columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    pending = 0

    def advance(sent: int) -> None:
        nonlocal pending
        pending += sent
        if pending >= STEP_NBYTES:
            bar.advance(task, pending)
            pending = 0

    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=nbytes)
        yield advance
        bar.advance(task, pending)
