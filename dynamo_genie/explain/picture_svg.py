"""The contracted graph as an SVG picture: fill by phase, border and letter by device, caches and cuts marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from dynamo_genie.explain.contraction import INPUTS, RESULTS, Arrow, Box, Picture
from dynamo_genie.explain.layout import BOX_HEIGHT, BOX_WIDTH, Layout, Route, lay_out
from dynamo_genie.explain.markup import Markup, element
from dynamo_genie.quantities import flops_text, nbytes_text

MAX_NAME = 26
MAX_SHRUNK_WIDTH = 900
"""A picture up to this wide is made to fit its column; a wider one would become too small to read, and scrolls."""
N_DEVICE_COLOURS = 6


def picture_svg(picture: Picture, devices: Sequence[str]) -> Markup:
    """Draw the boxes; `devices` gives the letters their order."""
    layout = lay_out(len(picture.boxes), [(arrow.source, arrow.target) for arrow in picture.arrows])
    arrows = {(arrow.source, arrow.target): arrow for arrow in picture.arrows}
    letters = {device: position for position, device in enumerate(devices)}
    size = {"width": f"{layout.width:.0f}", "height": f"{layout.height:.0f}"}
    return element(
        "svg",
        _arrow_heads(),
        *(_arrow(route, arrows[route.source, route.target]) for route in layout.routes),
        *(_box(number, box, layout, letters) for number, box in enumerate(picture.boxes)),
        *(_cut_label(route, arrow) for route in layout.routes if (arrow := arrows[route.source, route.target]).is_cut),
        viewBox=f"0 0 {layout.width:.0f} {layout.height:.0f}",
        class_="wide" if layout.width > MAX_SHRUNK_WIDTH else None,
        role="img",
        aria_label="the graph, one box a layer",
        **size,
    )


def device_letter(position: int) -> str:
    """Return the letter by which the picture and its legend name a device."""
    return chr(ord("A") + position) if position < 26 else str(position + 1)


def _arrow_heads() -> Markup:
    tip = element("path", d="M0 0L8 4L0 8z")
    marker = dict(viewBox="0 0 8 8", refX="7", refY="4", markerWidth="8", markerHeight="8", orient="auto")
    marker["markerUnits"] = "userSpaceOnUse"  # one size, however thick the line
    heads = (element("marker", tip, id=name, class_=name, **marker) for name in ("head", "cut-head"))
    return element("defs", *heads)


def _arrow(route: Route, arrow: Arrow) -> Markup:
    points = [f"{x:.1f} {y:.1f}" for x, y in route.points]
    path = [f"M{points[0]}"]
    for (x0, y0), (x1, y1) in pairwise(route.points):
        middle = (y0 + y1) / 2
        path.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    title = element("title", f"{arrow.n_values} values, {nbytes_text(arrow.nbytes)}")
    style, head = ("arrow cut", "cut-head") if arrow.is_cut else ("arrow", "head")
    return element("path", title, d="".join(path), class_=style, marker_end=f"url(#{head})")


def _box(number: int, box: Box, layout: Layout, letters: Mapping[str, int]) -> Markup:
    x, y = layout.centres[number]
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    report = box.report
    is_end = report.name in (INPUTS, RESULTS)
    phase = "end" if is_end else report.phase or "other"
    device = letters.get(report.device)
    edge = "" if device is None else f" device-{device % N_DEVICE_COLOURS}"
    frame = element("rect", class_="frame", x=left, y=top, width=BOX_WIDTH, height=BOX_HEIGHT, rx=8)
    parts = [frame, element("title", f"{report.name}: {report.n_nodes} nodes, {report.device or 'client'}")]
    parts.append(element("text", shorten(report.name), class_="name", x=left + 14, y=top + 22))
    parts.extend(_text(line, left + 14, top + 40 + 16 * row) for row, line in enumerate(_lines(box)))
    if device is not None:
        parts.append(_device_badge(device, left + BOX_WIDTH - 20, top + 17))
    if report.cache_nbytes:
        parts.append(_cache_mark(left + BOX_WIDTH - 26, top + BOX_HEIGHT - 22))
    return element("a", element("g", *parts, class_=f"box phase-{phase}{edge}"), href=f"#box-{number}")


def _lines(box: Box) -> list[str]:
    report = box.report
    work = [f"{report.n_nodes} nodes"] + ([flops_text(report.flops)] if report.flops else [])
    held = [f"{nbytes_text(report.weight_nbytes)} weights"] if report.weight_nbytes else []
    held += [f"{nbytes_text(report.cache_nbytes)} cache"] if report.cache_nbytes else []
    return [" · ".join(work), " · ".join(held)]


def _text(line: str, x: float, y: float) -> Markup:
    return element("text", line, class_="fact", x=x, y=y)


def _device_badge(device: int, x: float, y: float) -> Markup:
    letter = element("text", device_letter(device), x=x, y=y + 4, text_anchor="middle")
    return element("g", element("circle", cx=x, cy=y, r=9), letter, class_="badge")


def _cache_mark(x: float, y: float) -> Markup:
    """Draw the drum that stands for a KV cache."""
    side = f"M{x} {y}v10c0 4.5 14 4.5 14 0v-10"
    return element("g", element("path", d=side), element("ellipse", cx=x + 7, cy=y, rx=7, ry=3), class_="cache")


def _cut_label(route: Route, arrow: Arrow) -> Markup:
    x, y = route.points[-1]
    return element("text", nbytes_text(arrow.nbytes), class_="cut-label", x=x + 10, y=y - 7)


def shorten(name: str) -> str:
    """Return a name that fits into a box: the end says more than the beginning."""
    return name if len(name) <= MAX_NAME else f"…{name[-MAX_NAME + 1 :]}"
