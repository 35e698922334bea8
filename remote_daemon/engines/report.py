"""The report of a worker's engines for `genie status`."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.runtime.wire.messages import EngineStatus

MAX_REASON = 300
MAX_LINES = 32


def engine_statuses(running: Iterable[RunningProgram]) -> tuple[EngineStatus, ...]:
    """Count programs and calls by engine and reason, the most called first."""
    programs: dict[tuple[str, str], list[int]] = {}
    for program in running:
        programs.setdefault((program.engine, program.reason[:MAX_REASON]), []).append(program.calls)
    found = [EngineStatus(*key, len(calls), sum(calls)) for key, calls in programs.items()]
    return tuple(sorted(found, key=lambda status: -status.calls)[:MAX_LINES])
