"""The contracted graph as an SVG picture: fill by phase, border and letter by device, caches and cuts marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from markupsafe import Markup

from dynamo_genie.explain.contraction import INPUTS, RESULTS, Picture
from dynamo_genie.explain.layout import BOX_HEIGHT, BOX_WIDTH, Route, lay_out
from dynamo_genie.explain.markup import fill
from dynamo_genie.explain.records import GroupReport
from dynamo_genie.quantities import flops_text, nbytes_text

MAX_NAME = 26
MAX_SHRUNK_WIDTH = 900
"""A picture up to this wide is made to fit its column; a wider one would become too small to read, and scrolls."""
N_DEVICE_COLOURS = 6

_SVG = """\
<svg viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" height="{{ height }}" role="img"
 aria-label="the graph, one box a layer"{% if wide %} class="wide"{% endif %}>
<defs>
{% for name in ("head", "cut-head") %}
<marker id="{{ name }}" class="{{ name }}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
 orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z"></path></marker>
{% endfor %}
</defs>
{% for path, arrow in arrows %}
<path d="{{ path }}" class="arrow{% if arrow.is_cut %} cut{% endif %}"
 marker-end="url(#{% if arrow.is_cut %}cut-{% endif %}head)">
<title>{{ arrow.n_values }} values, {{ size(arrow.nbytes) }}</title></path>
{% endfor %}
{% for box, left, top, phase, device, lines in boxes %}
<a href="#box-{{ loop.index0 }}">
<g class="box phase-{{ phase }}{% if device is not none %} device-{{ device % colours }}{% endif %}">
<rect class="frame" x="{{ left }}" y="{{ top }}" width="{{ box_width }}" height="{{ box_height }}" rx="8"></rect>
<title>{{ box.name }}: {{ box.n_nodes }} nodes, {{ box.device or "client" }}</title>
<text class="name" x="{{ left + 14 }}" y="{{ top + 22 }}">{{ shorten(box.name) }}</text>
{% for line in lines %}
<text class="fact" x="{{ left + 14 }}" y="{{ top + 40 + 16 * loop.index0 }}">{{ line }}</text>
{% endfor %}
{% if device is not none %}
{% set x, y = left + box_width - 20, top + 17 %}
<g class="badge"><circle cx="{{ x }}" cy="{{ y }}" r="9"></circle>
<text x="{{ x }}" y="{{ y + 4 }}" text-anchor="middle">{{ letter(device) }}</text></g>
{% endif %}
{% if box.cache_nbytes %}
{% set x, y = left + box_width - 26, top + box_height - 22 %}
<g class="cache"><path d="M{{ x }} {{ y }}v10c0 4.5 14 4.5 14 0v-10"></path>
<ellipse cx="{{ x + 7 }}" cy="{{ y }}" rx="7" ry="3"></ellipse></g>
{% endif %}
</g></a>
{% endfor %}
{% for x, y, nbytes in cuts %}
<text class="cut-label" x="{{ x + 10 }}" y="{{ y - 7 }}">{{ size(nbytes) }}</text>
{% endfor %}
</svg>
"""


def picture_svg(picture: Picture, devices: Sequence[str]) -> Markup:
    """Draw the boxes; `devices` gives the letters their order."""
    layout = lay_out(len(picture.boxes), [(arrow.source, arrow.target) for arrow in picture.arrows])
    known = {(arrow.source, arrow.target): arrow for arrow in picture.arrows}
    arrows = [(route, known[route.source, route.target]) for route in layout.routes]
    return fill(
        _SVG,
        width=f"{layout.width:.0f}",
        height=f"{layout.height:.0f}",
        wide=layout.width > MAX_SHRUNK_WIDTH,
        arrows=[(_path(route), arrow) for route, arrow in arrows],
        cuts=[(*route.points[-1], arrow.nbytes) for route, arrow in arrows if arrow.is_cut],
        boxes=list(_boxes([box.report for box in picture.boxes], layout.centres, devices)),
        box_width=BOX_WIDTH,
        box_height=BOX_HEIGHT,
        colours=N_DEVICE_COLOURS,
        size=nbytes_text,
        letter=device_letter,
        shorten=shorten,
    )


def device_letter(position: int) -> str:
    """Return the letter by which the picture and its legend name a device."""
    return chr(ord("A") + position) if position < 26 else str(position + 1)


def shorten(name: str) -> str:
    """Return a name that fits into a box: the end says more than the beginning."""
    return name if len(name) <= MAX_NAME else f"…{name[-MAX_NAME + 1 :]}"


def _path(route: Route) -> str:
    path = ["M{:.1f} {:.1f}".format(*route.points[0])]
    for (x0, y0), (x1, y1) in pairwise(route.points):
        middle = (y0 + y1) / 2
        path.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return "".join(path)


def _boxes(
    reports: Sequence[GroupReport], centres: Sequence[tuple[float, float]], devices: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    """Yield for each box its report, its corner, its phase, the number of its device and what is written in it."""
    letters = {device: position for position, device in enumerate(devices)}
    for report, (x, y) in zip(reports, centres, strict=True):
        phase = "end" if report.name in (INPUTS, RESULTS) else report.phase or "other"
        work = [f"{report.n_nodes} nodes"] + ([flops_text(report.flops)] if report.flops else [])
        held = [f"{nbytes_text(report.weight_nbytes)} weights"] if report.weight_nbytes else []
        held += [f"{nbytes_text(report.cache_nbytes)} cache"] if report.cache_nbytes else []
        lines = " · ".join(work), " · ".join(held)
        yield report, x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2, phase, letters.get(report.device), lines
