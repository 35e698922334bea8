"""Tables of experiments that set mode against mode in one setting or in several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from dynamo_genie.bench.study.records import Row, Study
from dynamo_genie.bench.study.report.figures import Figures, figures_of
from dynamo_genie.bench.study.report.table import NOT_MEASURED, Table, megabytes, nbytes, ratio, seconds, share
from dynamo_genie.runtime.wire.tensor_class import COUNTED


def latency(study: Study) -> Table:
    """The study's table: phase, mode, latency, network, utilisation; and ours beside it."""
    found = figures_of(study)
    settings = _settings(study.rows)
    columns = (
        *settings, "Phase", "Mode", "Latency (s, mean ± std)", "Network (GB)", "GPU utilisation (%)",
        "Latency std (s)", "Bytes a step", "p50", "p99", "Tokens/s", "Added to local", "Executor busy (%)",
        "Kernel's bytes less ours (%)",
    )  # fmt: skip
    void = [_void(row, settings, len(columns)) for row in study.rows if row.void]
    rows = (*(_latency(f, settings) for f in found), *void)
    return Table("latency", "Latency and bytes, of one step", columns, rows, 2 + len(settings), _note(study))


def classes(study: Study) -> Table:
    """Bytes of a step by direction and tensor class."""
    found = figures_of(study)
    settings = _settings(study.rows)
    used = [name for name in COUNTED if any(name in f.row.sent or name in f.row.received for f in found)]
    columns = (*settings, "Phase", "Mode", *(f"{name}, {way}" for way in ("to the daemon", "back") for name in used))
    rows = []
    for f in found:
        counts = [way.get(name, 0) / f.row.steps for way in (f.row.sent, f.row.received) for name in used]
        rows.append((*_setting(f.row, settings), f.row.phase, f.row.mode, *map(nbytes, counts)))
    return Table("classes", "Bytes of a step by tensor class", columns, tuple(rows), 2 + len(settings))


def worth(study: Study) -> Table:
    """How many times more each mode moves and waits than `semantic` in the same setting."""
    found = figures_of(study)
    settings = _settings(study.rows)
    columns = (*settings, "Phase", "Mode", "Bytes over semantic's", "Added time over semantic's", "Added time")
    rows = []
    for f in found:
        best = next((g for g in found if g.row.mode == "semantic" and g.row.setting == f.row.setting), None)
        if best is None or f.row.mode == "local":
            continue
        moved = ratio(f.step_bytes / best.step_bytes) if best.step_bytes else NOT_MEASURED
        rows.append(
            (*_setting(f.row, settings), f.row.phase, f.row.mode, moved, _times(f, best), seconds(f.added_s))
        )  # fmt: skip
    note = (
        "Added time is the mean step less the mean step of `local`. There is no ratio where `semantic` adds nothing, "
        "or a mode less than the noise (the standard deviation over its repeats)."
    )
    return Table("worth", "What understanding is worth", columns, tuple(rows), 2 + len(settings), note)


def memory(study: Study) -> Table:
    """Peaks of both sides."""
    settings = _settings(study.rows)
    columns = (*settings, "Mode", "Client's peak (MB)", "Daemon's peak (MB)", "Daemon's peak on the GPU (MB)")
    rows: dict[tuple[str, ...], tuple[str, ...]] = {}
    for f in figures_of(study):
        key = (*_setting(f.row, settings), f.row.mode)
        peaks = f.row.client_peak_bytes, f.row.daemon_peak_bytes, f.row.daemon_gpu_peak_bytes
        none = "none" if f.row.mode == "local" else NOT_MEASURED
        rows.setdefault(key, (*key, *(none if i and p is None else megabytes(p) for i, p in enumerate(peaks))))
    return Table("memory", "Peak memory of both sides", columns, tuple(rows.values()), 1 + len(settings))


def _latency(f: Figures, settings: Sequence[str]) -> tuple[str, ...]:
    spread = "-" if f.std_s is None else f"{f.std_s:.5f}"
    utilisation = f.row.gpu_utilisation
    return (
        *_setting(f.row, settings),
        f.row.phase,
        f.row.mode,
        f"{f.mean_s:.5f} ± {spread}",
        f"{f.total_bytes / 1e9:.6f}",
        NOT_MEASURED if utilisation is None else share(utilisation),
        spread,
        nbytes(f.step_bytes),
        seconds(f.p50_s),
        seconds(f.p99_s),
        "" if f.tokens_s is None else f"{f.tokens_s:,.1f}",
        "0" if f.row.mode == "local" else seconds(f.added_s),
        share(f.busy),
        "" if not f.step_bytes else share(f.kernel_deviation, 3),
    )


def _void(row: Row, settings: Sequence[str], columns: int) -> tuple[str, ...]:
    cells = (*_setting(row, settings), row.phase, row.mode, f"void: {row.void}")
    return cells + ("",) * (columns - len(cells))


def _times(f: Figures, best: Figures) -> str:
    if f is best:
        return "1.0 x"
    if f.added_s is None or best.added_s is None:
        return NOT_MEASURED
    noise = f.std_s or 0.0
    return ratio(f.added_s / best.added_s) if best.added_s > 0 and f.added_s > noise else "no ratio"


def _note(study: Study) -> str:
    steps = {(row.phase, len(row.seconds[0])) for row in study.rows if row.seconds}
    each = ", ".join(f"{phase} of {count}" for phase, count in sorted(steps))
    return (
        f"Steps in a repeat: {each}. Latency is that of one step, its std that of the repeats' means; p50 and p99 are "
        "of all steps. Network is all bytes of the phase in one repeat. The executor of `local` is the client's own "
        "process."
    )


_SETTINGS: Mapping[str, Callable[[Row], object]] = MappingProxyType(
    {
        "Model": lambda row: row.model,
        "Prompt": lambda row: row.prompt,
        "Network": lambda row: row.network,
        "Placement": lambda row: row.placement,
        "Sessions": lambda row: row.sessions,
    }
)
"""Columns that name a setting, where rows differ in it."""


def _settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns in which rows differ beside mode and phase."""
    return tuple(name for name, value in _SETTINGS.items() if len({value(row) for row in rows}) > 1)


def _setting(row: Row, settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(_SETTINGS[name](row)) for name in settings)
