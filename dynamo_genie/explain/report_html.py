"""`report.html`: one page with everything known of a graph, which needs nothing beside itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from dynamo_genie.explain.contraction import Box, Picture
from dynamo_genie.explain.markup import fill
from dynamo_genie.explain.picture_svg import device_letter, picture_svg
from dynamo_genie.explain.plan_text import traffic_rows
from dynamo_genie.explain.records import GraphReport, PlacementReport
from dynamo_genie.explain.report_style import COLOURS, N_DEVICES, PAGE, SCRIPT, STYLE
from dynamo_genie.explain.timeline import timeline_of
from dynamo_genie.explain.timeline_svg import timeline_svg
from dynamo_genie.passes.graphs.annotated_text import facts_text, operator_name, value_text
from dynamo_genie.passes.graphs.pipeline import PassRecord
from dynamo_genie.passes.graphs.semantics import facts_of
from dynamo_genie.quantities import UNKNOWN, error_text, flops_text, nbytes_text, seconds_text

_code = Markup("<code>{}</code>").format


@dataclass(frozen=True)
class _Table:
    """A table with a title and remarks; its id lets people and tests point at it. A `summary` folds it."""

    title: str
    id: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    remarks: Sequence[str] = ()
    summary: str = ""

    @cached_property
    def numeric(self) -> set[int]:
        """The columns that hold numbers, which stand right."""
        return {i for row in self.rows for i, cell in enumerate(row) if _is_number(cell)}


def report_html(report: GraphReport, picture: Picture, passes: Sequence[PassRecord] = ()) -> str:
    """Return the page."""
    groups = [box.report for box in picture.boxes]
    devices = [device.device for device in report.placements[-1].devices] if report.placements else []
    return fill(
        PAGE,
        report=report,
        tiles=_tiles(report),
        phases=list(dict.fromkeys(group.phase or "other" for group in groups if group.device or group.flops)),
        devices=[(number % N_DEVICES, device_letter(number), device) for number, device in enumerate(devices)],
        has_caches=any(group.cache_nbytes for group in groups),
        has_cuts=any(arrow.is_cut for arrow in picture.arrows),
        picture=picture_svg(picture, devices),
        tables=list(_tables(report, passes)),
        timelines=list(_timelines(report)),
        boxes=[(box.report, _node_table(number, box)) for number, box in enumerate(picture.boxes)],
        style=Markup(STYLE + COLOURS),
        script=Markup(SCRIPT),
    )


def _tiles(report: GraphReport) -> Sequence[tuple[str, str]]:
    latest = report.placements[-1] if report.placements else None
    measured = latest.measured if latest else None
    resident = sum(d.weight_nbytes + d.cache_nbytes for d in latest.devices) if latest else None
    return (
        ("nodes", f"{report.n_nodes:,}"),
        ("work a call", flops_text(report.flops)),
        ("resident", nbytes_text(resident)),
        ("KV caches", str(len(report.caches))),
        ("calls", f"{measured.calls:,}" if measured else "0"),
        ("engine", ", ".join(dict.fromkeys(use.engine for use in measured.engines)) if measured else "-"),
        ("bytes of the last call", f"{measured.last.measured.total:,}" if measured else "-"),
        ("call to call", seconds_text(measured.median_step_s if measured else None)),
    )


def _timelines(report: GraphReport) -> Iterator[tuple[str, Markup, Sequence[str]]]:
    """Yield title, picture and remarks for each placement of whose times something is known."""
    for placement in report.placements:
        timeline = timeline_of(placement)
        if timeline is not None:
            kinds = dict.fromkeys(kind for lane in timeline.lanes for kind, bars in lane.kinds if bars)
            title = f"One call over time, {' above '.join(kinds)}"
            yield title, timeline_svg(timeline, [device.device for device in placement.devices]), timeline.remarks


def _tables(report: GraphReport, passes: Sequence[PassRecord]) -> Iterator[_Table]:
    for number, placement in enumerate(report.placements):
        yield from _placement_tables(number, placement)
    if report.caches:
        kinds = Counter((cache.kind, nbytes_text(cache.nbytes)) for cache in report.caches)
        summary = ", ".join(f"{count} {kind} of {size}" for (kind, size), count in kinds.items())
        rows: list[Sequence[object]] = [
            (c.kind, _code(c.before or UNKNOWN), _code(c.after), nbytes_text(c.nbytes), "; ".join(c.evidence))
            for c in report.caches
        ]
        columns = ("kind", "before", "after", "size", "evidence")
        yield _Table(f"{len(report.caches)} KV caches", "caches", columns, rows, summary=summary)
    if passes:
        rows = [
            (p.name, seconds_text(p.duration_s), f"{p.n_nodes_before:,}", f"{p.n_nodes_after:,}", _changes(p))
            for p in passes
        ]
        yield _Table("Passes", "passes", ("pass", "time", "nodes before", "after", "operators"), rows)


def _placement_tables(number: int, placement: PlacementReport) -> Iterator[_Table]:
    measured = placement.measured
    rows: list[Sequence[object]]
    if measured is not None:
        total, found = measured.predicted_nbytes, measured.measured_nbytes
        over_all = (
            f"All {measured.calls:,} calls: predicted {total:,} B, measured {found:,} B, {error_text(total, found)}."
        )
        rows = [(way, name, f"{p:,}", f"{m:,}", error_text(p, m)) for way, name, p, m in traffic_rows(measured.last)]
        columns = ("bytes of the last call", "class", "predicted", "measured", "off by")
        yield _Table("Bytes, predicted and measured", f"traffic-{number}", columns, rows, [over_all])
    rows = [
        ("predicted for a call", seconds_text(placement.predicted_step_s)),
        ("until a call returned (median)", seconds_text(measured.median_call_s if measured else None)),
        ("from one call to the next (median)", seconds_text(measured.median_step_s if measured else None)),
    ]
    yield _Table("Time, predicted and measured", f"time-{number}", ("time", ""), rows)
    rows = [
        (d.device, *map(nbytes_text, (d.weight_nbytes, d.cache_nbytes, d.memory_nbytes)), seconds_text(d.busy_s))
        for d in placement.devices
    ]
    columns = ("device", "weights", "caches", "memory", "busy a call")
    yield _Table(f"Placement, {placement.policy}", f"devices-{number}", columns, rows, placement.reasons)
    rows = [
        (p.index, p.device, p.stage, f"{len(p.nodes):,}", f"{len(p.inputs):,}", f"{len(p.outputs):,}")
        for p in placement.partitions
    ]
    heads = ("partition", "device", "stage", "nodes", "inputs", "outputs")
    yield _Table("Partitions", f"partitions-{number}", heads, rows)
    if placement.cuts:
        rows = [(_code(c.value), c.role, f"{c.nbytes:,}", c.source, c.target) for c in placement.cuts]
        title = "Cuts: what crosses between devices at each call"
        yield _Table(title, f"cuts-{number}", ("value", "role", "bytes", "from", "to"), rows)


def _node_table(number: int, box: Box) -> _Table:
    rows = [
        (_code(n.name), _code(operator_name(n)), value_text(n.meta.get("val")), facts_text(facts_of(n)))
        for n in box.nodes
    ]
    return _Table(box.report.name, f"nodes-{number}", ("value", "operator", "type", "facts"), rows)


def _changes(record: PassRecord) -> str:
    return ", ".join(f"{name} {change:+}" for name, change in record.operators) or "none"


def _is_number(cell: object) -> bool:
    """Say whether a cell holds a number, with a sign or a unit perhaps, or stands for an unknown one."""
    return not isinstance(cell, Markup) and re.fullmatch(r"-|[+-]?\d[\d,.e+-]*( \S+)?", str(cell)) is not None
