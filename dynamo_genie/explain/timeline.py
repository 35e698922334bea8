"""One call over time: a lane for each daemon and each link, what was predicted beside what was measured. Pure.

Workers tell when they ran which partition, each by its own clock, and nothing of transfers. Where that clock is not
the client's, the daemon's spans keep their distances and are moved together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynamo_genie.explain.records import PlacementReport
from dynamo_genie.observe import PartSpan
from dynamo_genie.passes.placement.schedule import Schedule
from dynamo_genie.quantities import nbytes_text

_UNMEASURED = "Daemons measure when they run a partition; when a value crossed, they do not tell."


@dataclass(frozen=True)
class Bar:
    """A stretch of time in a lane. `label` is short enough to stand in it; `what` says all that is not its time."""

    label: str
    what: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Lane:
    """What happens at one place, in the order of time.

    Attributes:
        ends: The daemon, or the two ends of a link, of which nobody measures anything.
    """

    ends: tuple[str, ...]
    predicted: tuple[Bar, ...]
    measured: tuple[Bar, ...] = ()

    @property
    def kinds(self) -> tuple[tuple[str, tuple[Bar, ...]], ...]:
        """Its two rows with their names, in the order in which all pictures and texts show them."""
        return ("predicted", self.predicted), ("measured", self.measured)


@dataclass(frozen=True)
class Timeline:
    """The lanes of a call: daemons as the plan lists them, then links as they are first used.

    Attributes:
        end_s: When the last of all bars ends.
        remarks: What a reader must know of the measured bars, such as those that were moved, and why.
    """

    lanes: tuple[Lane, ...]
    end_s: float
    remarks: tuple[str, ...]


def timeline_of(placement: PlacementReport) -> Timeline | None:
    """Return the last call under a placement; None where nothing is known of its times."""
    schedule = placement.schedule or Schedule((), ())
    measured, aligned = align(placement)
    names = [device.device for device in placement.devices]
    names += [*(part.device for part in schedule.parts), *(span.device for span in measured)]
    lanes = [_device_lane(name, schedule, measured) for name in dict.fromkeys(names)]
    lanes = [lane for lane in lanes if lane.predicted or lane.measured]
    links = dict.fromkeys((each.source, each.target) for each in schedule.transfers)
    lanes += [_link_lane(source, target, schedule) for source, target in links]
    ends = [bar.end_s for lane in lanes for bar in (*lane.predicted, *lane.measured)]
    remarks = (*((_UNMEASURED,) if measured and links else ()), *aligned.values())
    return Timeline(tuple(lanes), max(ends), remarks) if ends else None


def align(placement: PlacementReport) -> tuple[tuple[PartSpan, ...], dict[str, str]]:
    """Return the spans of the last call, and in words what was moved, by daemon: the spans of one with another clock.

    Its first is put where it should have begun; where that is not known, to the beginning of the call.
    """
    by_device: dict[str, list[PartSpan]] = defaultdict(list)
    for span in placement.measured.spans if placement.measured is not None else ():
        by_device[span.device].append(span)
    found: list[PartSpan] = []
    words: dict[str, str] = {}
    for device, spans in by_device.items():
        if all(span.same_clock for span in spans):
            found += spans
        else:
            moved, words[device] = _moved(spans, placement.schedule)
            found += moved
    return tuple(sorted(found, key=lambda span: span.partition)), words


def _moved(spans: Sequence[PartSpan], schedule: Schedule | None) -> tuple[list[PartSpan], str]:
    first = min(spans, key=lambda span: span.start_s)
    wanted = _predicted_start_s(schedule, first.partition)
    shift_s = (wanted or 0.0) - first.start_s
    where = "where it was predicted to begin" if wanted is not None else "at the beginning of the call"
    words = (
        f"The clock of {first.device} is not the client's: what it measured is moved as a whole, so that what ran "
        f"there first, partition {first.partition}, begins {where}."
    )
    return [replace(span, start_s=span.start_s + shift_s, end_s=span.end_s + shift_s) for span in spans], words


def _predicted_start_s(schedule: Schedule | None, partition: int) -> float | None:
    parts = schedule.parts if schedule is not None else ()
    return next((part.start_s for part in parts if part.index == partition), None)


def _device_lane(device: str, schedule: Schedule, measured: Sequence[PartSpan]) -> Lane:
    planned = [(p.index, p.start_s, p.end_s) for p in schedule.parts if p.device == device]
    found = [(s.partition, s.start_s, s.end_s) for s in measured if s.device == device]
    return Lane((device,), _part_bars(planned), _part_bars(found))


def _part_bars(parts: Sequence[tuple[int, float, float]]) -> tuple[Bar, ...]:
    bars = (Bar(str(index), f"partition {index}", start_s, end_s) for index, start_s, end_s in parts)
    return tuple(sorted(bars, key=lambda bar: bar.start_s))


def _link_lane(source: str, target: str, schedule: Schedule) -> Lane:
    own = (each for each in schedule.transfers if (each.source, each.target) == (source, target))
    bars = (Bar("", f"{each.value}, {nbytes_text(each.nbytes)}", each.start_s, each.end_s) for each in own)
    return Lane((source, target), tuple(sorted(bars, key=lambda bar: bar.start_s)))
