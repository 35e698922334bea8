"""Plots of the study: the same document gives the same bytes, with the same matplotlib.

Colours are those of M. Okabe and K. Ito, Color Universal Design, 2008, told apart by everyone; so are the markers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dynamo_genie.bench.study.records import Study
from dynamo_genie.bench.study.report.figures import Figures, figures_of
from dynamo_genie.bench.study.report.other_tables import throughput
from dynamo_genie.errors import GenieError

STYLES = MappingProxyType(
    {
        "local": ("#000000", "o"),
        "naive": ("#D55E00", "v"),
        "remote_cache": ("#E69F00", "s"),
        "handle": ("#56B4E9", "D"),
        "semantic": ("#009E73", "^"),
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
    if study.experiment in ("modes", "models"):
        return [
            Plot(f"{phase}-{what}", _Bars(_of(found, phase), *_BARS[what]))
            for phase in dict.fromkeys(f.row.phase for f in found)
            for what in _BARS
        ]
    if study.experiment == "kv-length":
        return [
            Plot("latency", _Lines(decode, "tokens in the cache", "decode step (ms)", _prompt, _milliseconds)),
            Plot("bytes", _Lines(decode, "tokens in the cache", "bytes of a decode step", _prompt, _bytes)),
        ]
    if study.experiment == "colocation":
        networks = dict.fromkeys(f.row.network for f in decode)
        return [
            Plot(f"latency-{_plain(name)}", _Placements([f for f in decode if f.row.network == name], name))
            for name in networks
        ]
    if study.experiment == "network":
        return [Plot("latency", _Grid(study, decode))]
    if study.experiment == "concurrency":
        remote = [f for f in decode if f.row.mode != "local"]
        return [
            Plot("throughput", _Lines(remote, "sessions", "tokens/s, all sessions", _sessions, throughput, log=False))
        ]
    if study.experiment == "peers":
        return [Plot("added", _Peers(found))]
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


@dataclass(frozen=True)
class _Bars:
    """A bar for each mode, of each model."""

    found: Sequence[Figures]
    label: str
    value: Callable[[Figures], float]

    def __call__(self, axes: Any) -> None:
        models = list(dict.fromkeys(f.row.model for f in self.found))
        modes = list(dict.fromkeys(f.row.mode for f in self.found))
        width = 0.8 / len(modes)
        for i, mode in enumerate(modes):
            mine = [f for f in self.found if f.row.mode == mode and self.value(f) > 0]
            places = [models.index(f.row.model) + (i - (len(modes) - 1) / 2) * width for f in mine]
            axes.bar(places, [self.value(f) for f in mine], width, color=_style(mode)[0], label=mode)
        axes.set_xticks(range(len(models)), models)
        _logarithmic(axes)
        axes.set_ylabel(self.label)
        axes.legend(ncols=len(modes), fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))


@dataclass(frozen=True)
class _Lines:
    """A line for each mode."""

    found: Sequence[Figures]
    across: str
    up: str
    x: Callable[[Figures], float]
    y: Callable[[Figures], float]
    log: bool = True

    def __call__(self, axes: Any) -> None:
        for mode in dict.fromkeys(f.row.mode for f in self.found):
            points = sorted((self.x(f), self.y(f)) for f in self.found if f.row.mode == mode and self.y(f) > 0)
            if points:
                colour, marker = _style(mode)
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=mode)
        axes.set_xscale("log", base=2)
        _ticks(axes, sorted({self.x(f) for f in self.found}))
        if self.log:
            _logarithmic(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(self.across)
        axes.set_ylabel(self.up)
        axes.legend(fontsize=7)


@dataclass(frozen=True)
class _Placements:
    """A line for local and for each placement, over the length of the cache."""

    found: Sequence[Figures]
    network: str

    def __call__(self, axes: Any) -> None:
        for label in dict.fromkeys(_placed(f) for f in self.found):
            points = sorted((f.row.prompt, f.mean_s * 1e3) for f in self.found if _placed(f) == label)
            colour, marker = _PLACED.get(label, _OTHERS)
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label)
        axes.set_xscale("log", base=2)
        _ticks(axes, sorted({f.row.prompt for f in self.found}))
        _logarithmic(axes)
        axes.set_xlabel("tokens in the cache")
        axes.set_ylabel("decode step (ms)")
        axes.set_title(f"two daemons, {self.network}", fontsize=9)
        axes.legend(fontsize=7)


@dataclass(frozen=True)
class _Grid:
    """What each mode adds, from network to network."""

    study: Study
    found: Sequence[Figures]

    def __call__(self, axes: Any) -> None:
        names = [shape.name for shape in self.study.networks]
        for mode in dict.fromkeys(f.row.mode for f in self.found if f.row.mode != "local"):
            mine = {f.row.network: f for f in self.found if f.row.mode == mode and (f.added_s or 0) > 0}
            points = [(i, (mine[name].added_s or 0) * 1e3) for i, name in enumerate(names) if name in mine]
            if points:
                colour, marker = _style(mode)
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=mode, linestyle=":")
        local = [(names.index(f.row.network), f.mean_s * 1e3) for f in self.found if f.row.mode == "local"]
        axes.plot(*zip(*local, strict=True), color="#000000", label="the local step itself")
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
        _logarithmic(axes)
        axes.set_ylabel("added to a decode step (ms)")
        axes.legend(fontsize=7)


@dataclass(frozen=True)
class _Peers:
    """What each system adds to a step, all samples."""

    found: Sequence[Figures]

    def __call__(self, axes: Any) -> None:
        local = next((f for f in self.found if f.row.mode == "local"), None)
        shown = [f for f in self.found if f is not local and "echo" not in f.row.mode]
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


def _ticks(axes: Any, values: Sequence[float]) -> None:
    axes.set_xticks(values, [f"{value:,.0f}" for value in values])
    axes.minorticks_off()


def _of(found: Sequence[Figures], phase: str) -> list[Figures]:
    return [f for f in found if f.row.phase == phase]


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


_PLACED: MappingProxyType[str, tuple[str, str]] = MappingProxyType(
    {
        "local": STYLES["local"],
        "blind placement, mode handle": STYLES["naive"],
        "blind placement, mode semantic": STYLES["remote_cache"],
        "semantic placement, mode semantic": STYLES["semantic"],
    }
)
_BARS: MappingProxyType[str, tuple[str, Callable[[Figures], float]]] = MappingProxyType(
    {
        "latency": ("a step (ms)", _milliseconds),
        "bytes": ("bytes of a step", _bytes),
    }
)
