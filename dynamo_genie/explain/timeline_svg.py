"""One call over time as an SVG picture: lanes below one another, time to the right, predicted above measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dynamo_genie.explain.markup import fill
from dynamo_genie.explain.picture_svg import N_DEVICE_COLOURS, device_letter, shorten
from dynamo_genie.explain.timeline import Bar, Lane, Timeline
from dynamo_genie.quantities import seconds_text

WIDTH = 1380.0
LEFT, RIGHT, TOP = 340.0, 24.0, 30.0
ROW, GAP = 18.0, 14.0
MIN_BAR = 1.5
"""What took next to no time is still to be seen."""
MIN_LABELLED = 22.0
N_TICKS = 8

_SVG = """\
<svg viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" height="{{ height }}" class="timeline" role="img"
 aria-label="one call over time, a lane for each daemon and link">
{% for x, label in ticks %}
<path class="tick" d="M{{ x }} {{ top - 6 }}V{{ height - 8 }}"></path>
<text class="fact" x="{{ x }}" y="{{ top - 12 }}" text-anchor="middle">{{ label }}</text>
{% endfor %}
{% for row in rows %}
<g class="lane {{ row.kind }}{% if row.colour is not none %} device-{{ row.colour }}{% endif %}">
{% if row.name %}<text class="name" x="6" y="{{ row.top + 13 }}">{{ row.name }}</text>{% endif %}
<text class="fact" x="{{ left - 10 }}" y="{{ row.top + 13 }}" text-anchor="end">{{ row.kind }}</text>
{% for x, bar_width, bar in row.bars %}
<g class="bar"><rect x="{{ x }}" y="{{ row.top + 1 }}" width="{{ bar_width }}" height="{{ bar_height }}" rx="2"></rect>
<title>{{ bar.what }}: {{ seconds(bar.start_s) }} to {{ seconds(bar.end_s) }} ({{ row.kind }})</title>
{% if bar.label and bar_width >= labelled %}
<text x="{{ x + bar_width / 2 }}" y="{{ row.top + 13 }}" text-anchor="middle">{{ bar.label }}</text>
{% endif %}</g>
{% endfor %}
</g>
{% endfor %}
</svg>
"""


@dataclass(frozen=True)
class _Row:
    """A row of bars: `kind` is "predicted" or "measured", `name` that of its lane in the first row of it."""

    name: str
    kind: str
    top: float
    colour: int | None
    bars: tuple[tuple[float, float, Bar], ...]


def timeline_svg(timeline: Timeline, devices: Sequence[str]) -> Markup:
    """Draw a call; `devices` gives the letters and colours of daemons their order."""
    rows = list(_rows(timeline, {device: position for position, device in enumerate(devices)}))
    return fill(
        _SVG,
        width=round(WIDTH),
        height=round(rows[-1].top + ROW + GAP),
        top=TOP,
        left=LEFT,
        bar_height=ROW - 3,
        labelled=MIN_LABELLED,
        ticks=[(round(_x(at, timeline.end_s), 1), seconds_text(at)) for at in ticks(timeline.end_s)],
        rows=rows,
        seconds=seconds_text,
    )


def ticks(end_s: float) -> tuple[float, ...]:
    """Return round times from 0 to at most `end_s`, a few and no more than that."""
    if end_s <= 0:
        return (0.0,)
    decade = 10.0 ** math.floor(math.log10(end_s / N_TICKS))
    step = next(factor * decade for factor in (1, 2, 5, 10, 20) if end_s / (factor * decade) <= N_TICKS)
    return tuple(number * step for number in range(math.floor(end_s / step * (1 + 1e-9)) + 1))


def _rows(timeline: Timeline, positions: Mapping[str, int]) -> Iterator[_Row]:
    top = TOP
    for lane in timeline.lanes:
        name, number = _name(lane, positions), positions.get(lane.ends[0])
        colour = None if number is None else number % N_DEVICE_COLOURS
        for kind, bars in lane.kinds:
            if bars:
                yield _Row(name, kind, top, colour, tuple((*_extent(bar, timeline.end_s), bar) for bar in bars))
                name = ""
                top += ROW
        top += GAP


def _name(lane: Lane, positions: Mapping[str, int]) -> str:
    letters = [device_letter(positions[end]) if end in positions else end for end in lane.ends]
    return " → ".join(letters) if len(letters) > 1 else f"{letters[0]}  {shorten(lane.ends[0])}"


def _extent(bar: Bar, end_s: float) -> tuple[float, float]:
    left, right = _x(bar.start_s, end_s), _x(bar.end_s, end_s)
    return round(left, 1), round(max(right - left, MIN_BAR), 1)


def _x(at_s: float, end_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (at_s / end_s if end_s > 0 else 0.0)
