"""A progress bar for long uploads of weights; the rest of the runtime does not know how it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

LONG_NBYTES = 64 << 20
"""Uploads up to this size are done before a bar would have been read."""


def upload_with_progress(
    upload_many: Callable[[Sequence[memoryview]], list[int]], views: Sequence[memoryview]
) -> list[int]:
    """Upload in portions of about `LONG_NBYTES`, advancing a bar on stderr after each."""
    columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    uploads: list[int] = []
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("uploading weights", total=sum(view.nbytes for view in views))
        for portion in _portions(views):
            uploads += upload_many(portion)
            bar.advance(task, sum(view.nbytes for view in portion))
    return uploads


def _portions(views: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    portion: list[memoryview] = []
    for view in views:
        portion.append(view)
        if sum(each.nbytes for each in portion) >= LONG_NBYTES:
            yield portion
            portion = []
    if portion:
        yield portion
