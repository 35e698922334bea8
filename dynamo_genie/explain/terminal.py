"""The plans of a program's graphs, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dynamo_genie.explain.advice import training_advice
from dynamo_genie.explain.plan_text import traffic_rows
from dynamo_genie.explain.records import GraphReport, PlacementReport
from dynamo_genie.passes.placement.topology import CLIENT
from dynamo_genie.quantities import UNKNOWN, error_text, nbytes_text, seconds_text


def render(reports: Sequence[GraphReport]) -> Group:
    """Lay out all graphs in one table, below it the bytes of each one's last call, then what would move less."""
    graphs = (part for report in reports for part in _graph(report))
    advice = training_advice(reports)
    return Group(_overview(reports), *graphs, *([Text(advice)] if advice else []))


def _overview(reports: Sequence[GraphReport]) -> Table:
    table = _table()
    table.add_column("graph", no_wrap=True)
    for column in ("phase", "KV caches", "partitions"):
        table.add_column(column)
    for column in ("resident", "calls", "bytes pred.", "meas.", "off by", "time pred.", "meas."):
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        rows = [_overview_row(placement) for placement in report.placements] or [(UNKNOWN,) * 8]
        for first, row in zip((True, *(False,) * len(rows)), rows, strict=False):
            head = (report.name, report.phase or UNKNOWN, _caches(report)) if first else ("", "", "")
            table.add_row(*map(Text, (*head, *row)))
    return table


def _overview_row(placement: PlacementReport) -> tuple[str, ...]:
    resident = sum(device.weight_nbytes + device.cache_nbytes for device in placement.devices)
    where = f"{len(placement.partitions)} on {len(placement.devices)}"
    measured = placement.measured
    counts = ("0", f"{placement.predicted.total:,}", UNKNOWN, UNKNOWN)
    if measured is not None:
        calls, predicted, found = measured.calls, measured.predicted_nbytes, measured.measured_nbytes
        means = (f"{predicted / calls:,.0f}", f"{found / calls:,.0f}")
        counts = (f"{calls:,}", *means, error_text(predicted, found))
    times = (placement.predicted_step_s, measured.median_step_s if measured is not None else None)
    return where, nbytes_text(resident), *counts, *map(seconds_text, times)


def _caches(report: GraphReport) -> str:
    kinds = Counter(cache.kind for cache in report.caches)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"


def _graph(report: GraphReport) -> Iterator[RenderableType]:
    because = f", because {'; '.join(report.phase_evidence)}" if report.phase_evidence else ""
    yield Text(f"{report.name}: {report.phase or 'no phase known'}{because}", style="bold")
    for placement in report.placements:
        yield _devices(placement)
        if any(part.device == CLIENT for part in placement.partitions):
            yield from map(Text, placement.reasons)
        if placement.measured is not None:
            for use in placement.measured.engines:
                yield Text(f"engine {use.engine} runs partition {use.partition}: {use.reason}")
            yield _traffic(placement)


def _devices(placement: PlacementReport) -> Table:
    table = _table("device", "partitions", "weights", "caches", "cut bytes in", "busy a call")
    for device in placement.devices:
        partitions = [part.index for part in placement.partitions if part.device == device.device]
        arriving = sum(cut.nbytes for cut in placement.cuts if cut.target == device.device)
        held = (nbytes_text(device.weight_nbytes), nbytes_text(device.cache_nbytes), f"{arriving:,}")
        table.add_row(*map(Text, (device.device, _numbers(partitions), *held, seconds_text(device.busy_s))))
    return table


def _traffic(placement: PlacementReport) -> Table:
    table = _table("bytes of the last call", "class", "predicted", "measured", "off by")
    assert placement.measured is not None
    for direction, name, predicted, found in traffic_rows(placement.measured.last):
        style = "bold" if name == "total" else ""
        table.add_row(direction, name, f"{predicted:,}", f"{found:,}", error_text(predicted, found), style=style)
    return table


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 4 else f"{numbers[0]}, ..., {numbers[-1]} ({len(numbers)})"
