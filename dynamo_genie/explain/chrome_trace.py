"""Calls over time as a Chrome trace, which Perfetto and `chrome://tracing` open.

The format is that of Google's "Trace Event Format": complete events (`X`), flows (`s`, `t`, `f`) and metadata (`M`).
Each daemon is a process, once as predicted and once as measured, with a thread for its partitions and one for each link
that leads from it. All calls begin at 0. Numbers are microseconds, made of whole nanoseconds, so that what ends where
something else begins does not overlap it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import msgspec

from dynamo_genie.explain.records import GraphReport, PlacementReport
from dynamo_genie.explain.timeline import Lane, align, timeline_of
from dynamo_genie.observe import PartSpan
from dynamo_genie.passes.placement.schedule import ScheduledPart, ScheduledTransfer


class TraceEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event; what is None is not written. Names are those of the format."""

    name: str
    ph: str
    pid: int
    tid: int
    cat: str | None = None
    ts: float | None = None
    dur: float | None = None
    id: int | None = None
    bp: str | None = None
    args: dict[str, str | int] | None = None


class TraceFile(msgspec.Struct, frozen=True):
    """The JSON object of a trace."""

    traceEvents: tuple[TraceEvent, ...]  # noqa: N815  # the format's name
    displayTimeUnit: str = "ms"  # noqa: N815  # the format's name


def chrome_trace(reports: Sequence[GraphReport]) -> bytes:
    """Return the last call of each graph, under its latest placement, as the text of a trace."""
    numbers = _Numbers()
    events = [
        event
        for report in reports
        if report.placements
        for event in _Call(report.name, report.placements[-1], numbers).events()
    ]
    return msgspec.json.encode(TraceFile(tuple(events)))


@dataclass(frozen=True)
class _Numbers:
    """The numbers of processes and flows, unique in a file."""

    processes: Iterator[int] = field(default_factory=lambda: count(1))
    flows: Iterator[int] = field(default_factory=lambda: count(1))


class _Call:
    """One call of one graph: its processes and threads, and the events in them."""

    def __init__(self, graph: str, placement: PlacementReport, numbers: _Numbers) -> None:
        self._graph = graph
        self._numbers = numbers
        self._parts = placement.schedule.parts if placement.schedule is not None else ()
        self._transfers = placement.schedule.transfers if placement.schedule is not None else ()
        self._spans, self._aligned = align(placement)
        timeline = timeline_of(placement)
        self._lanes = timeline.lanes if timeline is not None else ()
        self._processes: dict[tuple[str, str], int] = {}
        self._threads: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}

    def events(self) -> Iterator[TraceEvent]:
        """Yield names first, then what happened."""
        yield from self._named("predicted", [lane for lane in self._lanes if lane.predicted])
        yield from self._named("measured", [lane for lane in self._lanes if lane.measured])
        yield from (self._ran(part.device, "predicted", part.index, part) for part in self._parts)
        for transfer in self._transfers:
            yield self._crossed(transfer)
            yield from self._flow(transfer)
        yield from (self._ran(span.device, "measured", span.partition, span) for span in self._spans)

    def _named(self, kind: str, lanes: Sequence[Lane]) -> Iterator[TraceEvent]:
        """Number the processes and threads of some lanes, and yield their names and their order."""
        for lane in lanes:
            place = lane.ends[0]
            if (kind, place) not in self._processes:
                pid = self._processes[kind, place] = next(self._numbers.processes)
                name = f"{self._graph} {kind}: {place}"
                yield TraceEvent("process_name", "M", pid, 0, args={"name": name})
                yield TraceEvent("process_sort_index", "M", pid, 0, args={"sort_index": pid})
                yield from self._labels(kind, place, pid)
            pid = self._processes[kind, place]
            tid = 1 + sum(known == pid for known, _ in self._threads.values())
            self._threads[kind, lane.ends] = pid, tid
            name = "partitions" if len(lane.ends) == 1 else f"to {lane.ends[1]}"
            yield TraceEvent("thread_name", "M", pid, tid, args={"name": name})
            yield TraceEvent("thread_sort_index", "M", pid, tid, args={"sort_index": tid})

    def _labels(self, kind: str, place: str, pid: int) -> Iterator[TraceEvent]:
        """Say beside a process that what was measured there was moved."""
        words = self._aligned.get(place)
        if kind == "measured" and words is not None:
            yield TraceEvent("process_labels", "M", pid, 0, args={"labels": words})

    def _ran(self, device: str, kind: str, number: int, part: ScheduledPart | PartSpan) -> TraceEvent:
        ts, dur = _extent(part.start_s, part.end_s)
        place = self._threads[kind, (device,)]
        return TraceEvent(f"partition {number}", "X", *place, kind, ts, dur, args={"partition": number})

    def _crossed(self, transfer: ScheduledTransfer) -> TraceEvent:
        ts, dur = _extent(transfer.start_s, transfer.end_s)
        place = self._threads["predicted", (transfer.source, transfer.target)]
        return TraceEvent(transfer.value, "X", *place, "predicted", ts, dur, args={"nbytes": transfer.nbytes})

    def _flow(self, transfer: ScheduledTransfer) -> Iterator[TraceEvent]:
        """Yield an arrow from the partition that makes a value, over its link, to the first one that reads it."""
        number = next(self._numbers.flows)
        link = self._threads["predicted", (transfer.source, transfer.target)]
        begun = "s"
        if transfer.maker is not None:
            maker = self._parts[transfer.maker]
            last = max(_ns(maker.start_s), _ns(maker.end_s) - 1) / 1000  # a moment at which it still runs
            yield TraceEvent(
                transfer.value, begun, *self._threads["predicted", (maker.device,)], "transfer", last, id=number
            )
            begun = "t"
        yield TraceEvent(transfer.value, begun, *link, "transfer", _ns(transfer.start_s) / 1000, id=number)
        reader = self._parts[min(transfer.readers)]
        place = self._threads["predicted", (reader.device,)]
        yield TraceEvent(transfer.value, "f", *place, "transfer", _ns(reader.start_s) / 1000, id=number, bp="e")


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _extent(start_s: float, end_s: float) -> tuple[float, float]:
    return _ns(start_s) / 1000, (_ns(end_s) - _ns(start_s)) / 1000
