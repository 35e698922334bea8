"""The tables of `report.html`. Each has an id, so that people and tests can point at it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dynamo_genie.explain.contraction import Box
from dynamo_genie.explain.markup import Markup, element, join
from dynamo_genie.explain.plan_text import traffic_rows
from dynamo_genie.explain.records import CacheReport, Measurements, PlacementReport
from dynamo_genie.passes.graphs.annotated_text import facts_text, operator_name, value_text
from dynamo_genie.passes.graphs.pipeline import PassRecord
from dynamo_genie.passes.graphs.semantics import facts_of
from dynamo_genie.quantities import UNKNOWN, error_text, nbytes_text, seconds_text

Row = Sequence[object]


def table(table_id: str, columns: Sequence[str], rows: Iterable[Row], sums: Iterable[int] = ()) -> Markup:
    """Return a table; numbers stand right, and the rows numbered in `sums` are sums."""
    listed, marked = list(rows), set(sums)
    numeric = {i for row in listed for i, cell in enumerate(row) if _is_number(cell)}
    head = element("tr", *(element("th", name, class_=_class(i, numeric)) for i, name in enumerate(columns)))
    body = [
        element("tr", *(_cell(cell, i, numeric) for i, cell in enumerate(row)), class_="sum" if n in marked else None)
        for n, row in enumerate(listed)
    ]
    return element("table", element("thead", head), element("tbody", *body), id=table_id)


def traffic_table(number: int, measured: Measurements) -> Markup:
    """Return predicted against measured bytes of the last call, by direction and class."""
    rows = list(traffic_rows(measured.last))
    cells = [(way, name, f"{p:,}", f"{found:,}", error_text(p, found)) for way, name, p, found in rows]
    sums = [i for i, row in enumerate(rows) if row[1] == "total"]
    return table(
        f"traffic-{number}", ("bytes of the last call", "class", "predicted", "measured", "off by"), cells, sums
    )


def time_table(number: int, placement: PlacementReport) -> Markup:
    """Return predicted and measured time of a call."""
    measured = placement.measured
    rows = [
        ("predicted for a call", seconds_text(placement.predicted_step_s)),
        ("until a call returned (median)", seconds_text(measured.median_call_s if measured else None)),
        ("from one call to the next (median)", seconds_text(measured.median_step_s if measured else None)),
    ]
    return table(f"time-{number}", ("time", ""), rows)


def device_table(number: int, placement: PlacementReport) -> Markup:
    """Return what each device holds and does."""
    rows = [
        (d.device, *map(nbytes_text, (d.weight_nbytes, d.cache_nbytes, d.memory_nbytes)), seconds_text(d.busy_s))
        for d in placement.devices
    ]
    return table(f"devices-{number}", ("device", "weights", "caches", "memory", "busy a call"), rows)


def partition_table(number: int, placement: PlacementReport) -> Markup:
    """Return the partitions in the order in which they are sent."""
    rows = [
        (p.index, p.device, p.stage, f"{len(p.nodes):,}", f"{len(p.inputs):,}", f"{len(p.outputs):,}")
        for p in placement.partitions
    ]
    return table(f"partitions-{number}", ("partition", "device", "stage", "nodes", "inputs", "outputs"), rows)


def cut_table(number: int, placement: PlacementReport) -> Markup:
    """Return the values that cross between devices at each call."""
    rows = [(element("code", c.value), c.role, f"{c.nbytes:,}", c.source, c.target) for c in placement.cuts]
    return table(f"cuts-{number}", ("value", "role", "bytes", "from", "to"), rows)


def cache_table(caches: Sequence[CacheReport]) -> Markup:
    """Return the KV caches and why they are taken for such."""
    rows = [
        (c.kind, element("code", c.before or UNKNOWN), element("code", c.after), nbytes_text(c.nbytes), why)
        for c in caches
        for why in ("; ".join(c.evidence),)
    ]
    return table("caches", ("kind", "before", "after", "size", "evidence"), rows)


def pass_table(passes: Sequence[PassRecord]) -> Markup:
    """Return what each pass took and changed."""
    rows = [
        (p.name, seconds_text(p.duration_s), f"{p.n_nodes_before:,}", f"{p.n_nodes_after:,}", _changes(p))
        for p in passes
    ]
    return table("passes", ("pass", "time", "nodes before", "after", "operators"), rows)


def node_lists(boxes: Sequence[Box]) -> Markup:
    """Return the nodes of each box, folded."""
    return join(*(_node_list(number, box) for number, box in enumerate(boxes)))


def _node_list(number: int, box: Box) -> Markup:
    rows = [
        (
            element("code", n.name),
            element("code", operator_name(n)),
            value_text(n.meta.get("val")),
            facts_text(facts_of(n)),
        )
        for n in box.nodes
    ]
    nodes = table(f"nodes-{number}", ("value", "operator", "type", "facts"), rows)
    where = f", {box.report.device}" if box.report.device else ""
    summary = element("summary", f"{box.report.name}  ", element("span", f"{len(rows)} nodes{where}", class_="soft"))
    return element("details", summary, nodes, id=f"box-{number}")


def _changes(record: PassRecord) -> str:
    return ", ".join(f"{name} {change:+}" for name, change in record.operators) or "none"


def _cell(cell: object, column: int, numeric: set[int]) -> Markup:
    return element("td", cell, class_=_class(column, numeric))


def _class(column: int, numeric: set[int]) -> str | None:
    return "n" if column in numeric else None


def _is_number(cell: object) -> bool:
    """Say whether a cell holds a number, with a sign or a unit perhaps, or stands for an unknown one."""
    return not isinstance(cell, Markup) and re.fullmatch(r"-|[+-]?\d[\d,.e+-]*( \S+)?", str(cell)) is not None
