"""What the cost model foretold of a call, beside what daemons measured; the same again with measured times of parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynamo_genie.bench.study.records import Foretold
from dynamo_genie.explain.records import PlacementReport, from_json
from dynamo_genie.observe import PartSpan
from dynamo_genie.passes.placement.problem import Input, Problem, Value
from dynamo_genie.passes.placement.schedule import Schedule, ScheduledTransfer
from dynamo_genie.passes.placement.step_time import Parts, predict
from dynamo_genie.passes.placement.topology import CLIENT, Device, Link, Topology


def foretold(folder: Path) -> Foretold | None:
    """Read what was dumped of a watched call; None where it was one part, or a part's time is not known."""
    graphs = [from_json(path.read_bytes()) for path in folder.glob("**/plan.json")]
    reports = [placement for graph in graphs for placement in graph.placements]
    found = [one for one in reports if one.schedule is not None and one.measured is not None]
    return _of(found[-1]) if found else None


def _of(report: PlacementReport) -> Foretold | None:
    assert report.schedule is not None and report.measured is not None
    schedule, spans = report.schedule, report.measured.spans
    if len(schedule.parts) < 2 or {span.partition for span in spans} != {part.index for part in schedule.parts}:
        return None
    predicted = max(part.end_s for part in schedule.parts)
    return Foretold(len(schedule.parts), predicted, simulated_s(schedule, spans), max(span.end_s for span in spans))


def simulated_s(schedule: Schedule, spans: Sequence[PartSpan]) -> float:
    """Return the seconds of a call whose parts take what was measured, and its links what was predicted."""
    took = {span.partition: span.end_s - span.start_s for span in spans}
    names = list(dict.fromkeys(part.device for part in schedule.parts))
    devices = [names.index(part.device) for part in schedule.parts]
    problem = Problem(
        topology=Topology(tuple(Device(name, 0, 1.0, 1.0) for name in names), tuple(_links(schedule, names))),
        units=tuple((str(part.index),) for part in schedule.parts),
        predecessors=tuple(tuple(sorted(before)) for before in _before(schedule)),
        seconds=tuple((took[part.index],) * len(names) for part in schedule.parts),
        values=tuple(
            Value(f"{each.value} to {each.target}", each.maker, each.readers, each.nbytes, "")
            for each in schedule.transfers
            if each.maker is not None
        ),
        weights=(),
        inputs=tuple(
            Input(f"{each.value} to {each.target}", each.readers, each.nbytes, "", _home(each, names))
            for each in schedule.transfers
            if each.maker is None
        ),
        cache_nbytes=(0,) * len(devices),
        reserved_nbytes=(0,) * len(devices),
        allowed=tuple((device,) for device in devices),
    )
    return predict(problem, Parts(tuple(range(len(devices))), tuple(devices), tuple(range(len(devices))))).step_s


def _before(schedule: Schedule) -> list[set[int]]:
    """Return for each part those that it waits for."""
    found: list[set[int]] = [set() for _ in schedule.parts]
    for each in schedule.transfers:
        if each.maker is not None:
            for reader in each.readers:
                found[reader].add(each.maker)
    return found


def _home(each: ScheduledTransfer, names: Sequence[str]) -> tuple[int, ...]:
    return () if each.source == CLIENT else (names.index(each.source),)


def _links(schedule: Schedule, names: Sequence[str]) -> list[Link]:
    """Return a link for each ordered pair of ends, as fast as its transfers were taken to be; unused ones are free."""
    taken: Mapping[tuple[str, str], list[ScheduledTransfer]] = defaultdict(list)
    for each in schedule.transfers:
        taken[each.source, each.target].append(each)
    found = []
    for source in (CLIENT, *names):
        for target in (CLIENT, *names):
            if source != target:
                own = taken.get((source, target), [])
                seconds = sum(each.end_s - each.start_s for each in own)
                latency_s = max((each.arrives_s - each.end_s for each in own), default=0.0)
                nbytes = sum(each.nbytes for each in own)
                found.append(Link(source, target, latency_s, nbytes / seconds if seconds > 0 else _ENDLESS))
    return found


_ENDLESS = 1e15
