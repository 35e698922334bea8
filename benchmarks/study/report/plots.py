"""Plots of the study: the same document gives the same bytes, with the same matplotlib.

Colours are those of M. Okabe and K. Ito, Color Universal Design, 2008, told apart by everyone; so are the markers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from dynamo_genie.bench.study.records import Study
from dynamo_genie.bench.study.report.figures import Figures, figures_of
from dynamo_genie.bench.study.report.other_tables import throughput
from dynamo_genie.bench.study.report.pipeline_plots import networks_of, speeds
from dynamo_genie.errors import GenieError

STYLES = MappingProxyType(
    {
        "local": ("#000000", "o"),
        "naive": ("#D55E00", "v"),
        "remote_cache": ("#E69F00", "s"),
        "handle": ("#56B4E9", "D"),
        "semantic": ("#009E73", "^"),
        "blind placement, mode handle": ("#D55E00", "v"),
        "blind placement, mode semantic": ("#E69F00", "s"),
        "semantic placement, mode semantic": ("#009E73", "^"),
    }
)
_OTHERS = ("#CC79A7", "X")
_SETTINGS: MappingProxyType[Any, Any] = MappingProxyType(
    {
        "svg.hashsalt": "dynamo_genie",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)
_SIZE = (6.4, 3.8)


@dataclass(frozen=True)
class Plot:
    """One plot: its name in file names, and what draws it on axes."""

    name: str
    draw: Callable[[Any], None]


def plots_of(study: Study) -> list[Plot]:
    """Return the plots that a document's experiment has."""
    found = figures_of(study)
    decode = [f for f in found if f.row.phase == "decode"]
    lines = partial(_lines, decode, "tokens in the cache")
    match study.experiment:
        case "modes" | "models":
            return [
                Plot(f"{phase}-{what}", partial(_bars, [f for f in found if f.row.phase == phase], *_BARS[what]))
                for phase in dict.fromkeys(f.row.phase for f in found)
                for what in _BARS
            ]
        case "kv-length":
            return [
                Plot("latency", partial(lines, "decode step (ms)", _prompt, _milliseconds)),
                Plot("bytes", partial(lines, "bytes of a decode step", _prompt, _bytes)),
            ]
        case "colocation":
            return [
                Plot(
                    f"latency-{_plain(name)}", partial(_placements, [f for f in decode if f.row.network == name], name)
                )
                for name in dict.fromkeys(f.row.network for f in decode)
            ]
        case "network":
            return [Plot("latency", partial(_grid, study, decode))]
        case "concurrency":
            remote = [f for f in decode if f.row.mode != "local"]
            draw = partial(_lines, remote, "sessions", "tokens/s, all sessions", _sessions, throughput, log=False)
            return [Plot("throughput", draw)]
        case "peers":
            return [Plot("added", partial(_peers, found))]
        case "pipelines":
            return [Plot(f"speed-{_plain(name)}", partial(speeds, study, name)) for name in networks_of(study)]
    return []


def render(plot: Plot, ending: str) -> bytes:
    """Return a plot as the bytes of a `png` or `svg` file.

    Raises:
        GenieError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GenieError(f"plots need matplotlib ({error}): pip install 'dynamo_genie[study]'") from None
    with mpl.rc_context(dict(_SETTINGS)):
        figure = Figure(figsize=_SIZE, dpi=110, layout="tight")
        FigureCanvasAgg(figure)
        plot.draw(figure.add_subplot())
        file = io.BytesIO()
        figure.savefig(file, format=ending, metadata={"Date": None} if ending == "svg" else {"Software": None})
    return file.getvalue()


def _bars(found: Sequence[Figures], label: str, value: Callable[[Figures], float], axes: Any) -> None:
    """Draw a bar for each mode, of each model."""
    models = list(dict.fromkeys(f.row.model for f in found))
    modes = list(dict.fromkeys(f.row.mode for f in found))
    width = 0.8 / len(modes)
    for i, mode in enumerate(modes):
        mine = [f for f in found if f.row.mode == mode and value(f) > 0]
        places = [models.index(f.row.model) + (i - (len(modes) - 1) / 2) * width for f in mine]
        axes.bar(places, [value(f) for f in mine], width, color=_style(mode)[0], label=mode)
    axes.set_xticks(range(len(models)), models)
    _logarithmic(axes)
    axes.set_ylabel(label)
    axes.legend(ncols=len(modes), fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _lines(
    found: Sequence[Figures],
    across: str,
    up: str,
    x: Callable[[Figures], float],
    y: Callable[[Figures], float],
    axes: Any,
    *,
    label: Callable[[Figures], str] = lambda f: f.row.mode,
    log: bool = True,
) -> None:
    """Draw a line for each mode, or whatever `label` tells apart."""
    for name in dict.fromkeys(map(label, found)):
        points = sorted((x(f), y(f)) for f in found if label(f) == name and y(f) > 0)
        if points:
            colour, marker = _style(name)
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    values = sorted({x(f) for f in found})
    axes.set_xticks(values, [f"{value:,.0f}" for value in values])
    axes.minorticks_off()
    if log:
        _logarithmic(axes)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(fontsize=7)


def _placements(found: Sequence[Figures], network: str, axes: Any) -> None:
    """Draw a line for local and for each placement, over the length of the cache."""
    _lines(found, "tokens in the cache", "decode step (ms)", _prompt, _milliseconds, axes, label=_placed)
    axes.set_title(f"two daemons, {network}", fontsize=9)


def _grid(study: Study, found: Sequence[Figures], axes: Any) -> None:
    """Draw what each mode adds, from network to network."""
    names = [shape.name for shape in study.networks]
    for mode in dict.fromkeys(f.row.mode for f in found if f.row.mode != "local"):
        mine = {f.row.network: f for f in found if f.row.mode == mode and (f.added_s or 0) > 0}
        points = [(i, (mine[name].added_s or 0) * 1e3) for i, name in enumerate(names) if name in mine]
        if points:
            colour, marker = _style(mode)
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=mode, linestyle=":")
    local = [(names.index(f.row.network), f.mean_s * 1e3) for f in found if f.row.mode == "local"]
    axes.plot(*zip(*local, strict=True), color="#000000", label="the local step itself")
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
    _logarithmic(axes)
    axes.set_ylabel("added to a decode step (ms)")
    axes.legend(fontsize=7)


def _peers(found: Sequence[Figures], axes: Any) -> None:
    """Draw what each system adds to a step, all samples."""
    local = next((f for f in found if f.row.mode == "local"), None)
    shown = [f for f in found if f is not local and "echo" not in f.row.mode]
    if local is None or not shown:
        return
    samples = [[(s - local.p50_s) * 1e3 for repeat in f.row.seconds for s in repeat] for f in shown]
    axes.boxplot(samples, showfliers=False, medianprops={"color": "#D55E00"})
    axes.set_xticks(range(1, len(shown) + 1), [f.row.mode for f in shown])
    axes.set_ylabel("step less the median local step (ms)")
    axes.axhline(0, color="#000000", linewidth=0.8)


def _logarithmic(axes: Any) -> None:
    """Let the vertical axis be logarithmic, unless nothing is drawn that it could show."""
    if axes.lines or axes.patches:
        axes.set_yscale("log")


def _style(mode: str) -> tuple[str, str]:
    return STYLES.get(mode, _OTHERS)


def _prompt(f: Figures) -> float:
    return f.row.prompt


def _sessions(f: Figures) -> float:
    return f.row.sessions


def _milliseconds(f: Figures) -> float:
    return f.mean_s * 1e3


def _bytes(f: Figures) -> float:
    return f.step_bytes


def _placed(f: Figures) -> str:
    return "local" if not f.row.placement else f"{f.row.placement} placement, mode {f.row.mode}"


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)


_BARS: MappingProxyType[str, tuple[str, Callable[[Figures], float]]] = MappingProxyType(
    {
        "latency": ("a step (ms)", _milliseconds),
        "bytes": ("bytes of a step", _bytes),
    }
)
