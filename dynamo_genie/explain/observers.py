"""Who watches a graph: files, the log, torch's trace; nobody, unless asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dynamo_genie.explain.announcements import LogObserver, TraceObserver, log_is_on
from dynamo_genie.explain.dump import DumpObserver
from dynamo_genie.explain.folders import dump_roots, new_folder
from dynamo_genie.explain.guarded import Guarded
from dynamo_genie.explain.story import GraphStory
from dynamo_genie.observe import GraphObserver
from dynamo_genie.options import Options
from dynamo_genie.torch_internals.compile_context import CompileId, current_compile_id, structured_trace_is_on

Watch = Callable[[str], GraphObserver | None]
"""Makes the observer of one ATen graph; the argument says whether it is inference, forward or backward."""


def watch_for(options: Options) -> Watch:
    """Return what makes the observers of the graphs that are compiled with these options.

    Raises:
        OptionError: Dumps are wanted in a folder that cannot be written.
    """
    return partial(_observer_of, dump_roots(options, os.environ))


def _observer_of(roots: tuple[Path, ...], kind: str) -> GraphObserver | None:
    makers = list(_makers(roots, kind, current_compile_id()))
    return Guarded(makers) if makers else None


def _makers(roots: tuple[Path, ...], kind: str, compile_id: CompileId | None) -> Iterator[Callable[[], GraphObserver]]:
    number = str(compile_id or "")
    name = f"{number.replace('/', '_') or 'graph'}_{kind}"
    for root in roots:
        yield partial(_make_dump, root, name, number, kind)
    if log_is_on():
        yield lambda: LogObserver(GraphStory(name, number, kind))
    if structured_trace_is_on():
        yield lambda: TraceObserver(GraphStory(name, number, kind), compile_id)


def _make_dump(root: Path, name: str, compile_id: str, kind: str) -> GraphObserver:
    folder = new_folder(root, name)
    return DumpObserver(folder, GraphStory(folder.name, compile_id, kind))
