"""`report.html`: one page with everything known of a graph, which needs nothing beside itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dynamo_genie.explain.contraction import Picture
from dynamo_genie.explain.markup import Markup, element, join
from dynamo_genie.explain.picture_svg import device_letter, picture_svg
from dynamo_genie.explain.records import CacheReport, GraphReport, PlacementReport
from dynamo_genie.explain.report_style import COLOURS, N_DEVICES, SCRIPT, STYLE
from dynamo_genie.explain.report_tables import (
    cache_table,
    cut_table,
    device_table,
    node_lists,
    partition_table,
    pass_table,
    time_table,
    traffic_table,
)
from dynamo_genie.passes.graphs.pipeline import PassRecord
from dynamo_genie.quantities import error_text, flops_text, nbytes_text, seconds_text


def report_html(report: GraphReport, picture: Picture, passes: Sequence[PassRecord] = ()) -> str:
    """Return the page."""
    devices = [device.device for device in report.placements[-1].devices] if report.placements else []
    drawing = _card(
        "The graph, a box for each layer; click one for its nodes",
        _legend(picture, devices),
        picture_svg(picture, devices),
    )
    drawing = element("section", drawing, class_="picture")
    facts = element("section", *_cards(report, passes))
    nodes = _card("Nodes", node_lists(picture.boxes))
    main = element("main", *_head(report), _tiles(report), element("div", drawing, facts, class_="columns"), nodes)
    style = element("style", Markup(STYLE + COLOURS))
    title = element("title", f"{report.name} - dynamo_genie")
    meta = Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width">')
    page = element("html", element("head", meta, title, style), element("body", main, _script()), lang="en")
    return f"<!doctype html>\n{page}\n"


def _script() -> Markup:
    return element("script", Markup(SCRIPT))


def _head(report: GraphReport) -> Iterator[Markup]:
    phase = report.phase or "other"
    pill = element("span", phase.replace("_", " "), class_=f"pill phase-{phase}")
    yield element("h1", f"Graph {report.name}", pill)
    for line in report.phase_evidence:
        yield element("p", f"because {line}", class_="soft")


def _tiles(report: GraphReport) -> Markup:
    latest = report.placements[-1] if report.placements else None
    measured = latest.measured if latest else None
    resident = sum(d.weight_nbytes + d.cache_nbytes for d in latest.devices) if latest else None
    tiles = (
        ("nodes", f"{report.n_nodes:,}"),
        ("work a call", flops_text(report.flops)),
        ("resident", nbytes_text(resident)),
        ("KV caches", str(len(report.caches))),
        ("calls", f"{measured.calls:,}" if measured else "0"),
        ("engine", ", ".join(dict.fromkeys(use.engine for use in measured.engines)) if measured else "-"),
        ("bytes of the last call", f"{measured.last.measured.total:,}" if measured else "-"),
        ("call to call", seconds_text(measured.median_step_s if measured else None)),
    )
    return element(
        "div", *(element("div", element("b", value), name, class_="tile") for name, value in tiles), class_="tiles"
    )


def _cards(report: GraphReport, passes: Sequence[PassRecord]) -> Iterator[Markup]:
    for number, placement in enumerate(report.placements):
        yield from _placement_cards(number, placement)
    if report.caches:
        yield _card(
            f"{len(report.caches)} KV caches", _folded(_cache_summary(report.caches), cache_table(report.caches))
        )
    if passes:
        yield _card("Passes", pass_table(passes))


def _cache_summary(caches: Sequence[CacheReport]) -> str:
    kinds = Counter((cache.kind, nbytes_text(cache.nbytes)) for cache in caches)
    return ", ".join(f"{count} {kind} of {size}" for (kind, size), count in kinds.items())


def _folded(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)


def _placement_cards(number: int, placement: PlacementReport) -> Iterator[Markup]:
    measured = placement.measured
    if measured is not None:
        total, found = measured.predicted_nbytes, measured.measured_nbytes
        over_all = (
            f"All {measured.calls:,} calls: predicted {total:,} B, measured {found:,} B, {error_text(total, found)}."
        )
        yield _card(
            "Bytes, predicted and measured", traffic_table(number, measured), element("p", over_all, class_="soft")
        )
    yield _card("Time, predicted and measured", time_table(number, placement))
    why = (element("p", reason, class_="soft") for reason in placement.reasons)
    yield _card(f"Placement, {placement.policy}", device_table(number, placement), *why)
    yield _card("Partitions", partition_table(number, placement))
    if placement.cuts:
        yield _card("Cuts: what crosses between devices at each call", cut_table(number, placement))


def _card(title: str, *children: object) -> Markup:
    return element("div", element("h2", title), *children, class_="card")


def _legend(picture: Picture, devices: Sequence[str]) -> Markup:
    phases = dict.fromkeys(
        box.report.phase or "other" for box in picture.boxes if box.report.device or box.report.flops
    )
    entries = [join(element("i", class_=f"phase-{phase}"), phase.replace("_", " ")) for phase in phases]
    entries += [
        join(
            element("i", class_="ring", style=f"--c:var(--d{number % N_DEVICES})"), f"{device_letter(number)}  {device}"
        )
        for number, device in enumerate(devices)
    ]
    if any(box.report.cache_nbytes for box in picture.boxes):
        entries.append(join("drum: holds a KV cache"))
    if any(arrow.is_cut for arrow in picture.arrows):
        entries.append(join(element("i", class_="dash"), "cut, with its bytes a call"))
    return element("div", *(element("span", entry) for entry in entries), class_="legend")
