"""Tables of training: what a step takes and moves beside local's, and what an operator of eager code costs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from types import MappingProxyType

from dynamo_genie.bench.study.records import Row, Study
from dynamo_genie.bench.study.report.figures import Figures, figures_of
from dynamo_genie.bench.study.report.table import NOT_MEASURED, Table, megabytes, nbytes, seconds

STEP_BYTES = 20_000
"""What a compiled step of `resident` may move, both ways together."""
TIMES_LOCAL = MappingProxyType({"train": 1.05, "train-eager": 1.3})
"""How many times the local step one of `resident` may take."""
JUDGED = "gpt2"
"""The model that these aims are for."""
FLOORS = MappingProxyType({"train": "compiled", "train-eager": "eager"})


@dataclass(frozen=True)
class _Pair:
    """A row with that of `local` in its setting."""

    figures: Figures
    local: Figures

    @property
    def means(self) -> list[tuple[float, float]]:
        """For each repeat the mean step, and the local one in the same repeat."""
        each = ([statistics.fmean(repeat) for repeat in one.row.seconds] for one in (self.figures, self.local))
        return list(zip(*each, strict=False))  # a mode that failed has fewer

    @property
    def times(self) -> list[float]:
        """For each repeat how many times the local step a step took."""
        return [mine / floor for mine, floor in self.means]

    def per_operator(self) -> tuple[float, float]:
        """Return the median step, and the median of what it adds to the local one, over the local one's operators."""
        count = self.local.row.operators
        return self.figures.p50_s / count, statistics.median(mine - floor for mine, floor in self.means) / count


def training(study: Study) -> Table:
    """What a training step takes, beside the local one in the same run, and what it moves."""
    columns = (
        "Model", "Network", "Code", "Mode", "Step (median)", "Local step, the floor", "Times the floor",
        "Least to most", "Aim", "Bytes a step", "By the kernel", "Aim (bytes)", "Tokens/s", "Client's peak (MB)",
        "Daemon's peak (MB)",
    )  # fmt: skip
    rows = [_step(pair) for pair in _pairs(study) if pair.figures.row.mode != "wrapped"]
    void = [(*_named(row), f"void: {row.void}", *[""] * (len(columns) - 5)) for row in study.rows if row.void]
    note = (
        "Losses equal those of `local` bit for bit, in every step; a row in which one differs is void. The ratio is "
        "the median over repeats, in each of which all modes took their turns, beside the least and the most of one: "
        "other work on the machine shows there. `local` is `aot_eager` in the client's process "
        "for compiled code, plain PyTorch for eager code. The kernel's count is without headers, framing and leases."
    )
    return Table("training", "A training step", columns, (*rows, *void), 4, note)


def operators(study: Study) -> Table:
    """What an operator of eager code costs, beside a tensor subclass that does nothing."""
    columns = (
        "Model", "Mode", "Operators a step", "Step (median)", "Of a step, an operator", "Added to local, an operator",
        "Times the floor, `wrapped`",
    )  # fmt: skip
    pairs = [pair for pair in _pairs(study) if pair.local.row.operators]
    floors = {pair.figures.row.setting: pair.per_operator()[1] for pair in pairs if pair.figures.row.mode == "wrapped"}
    rows = tuple(
        _operator(pair, floors[pair.figures.row.setting]) for pair in pairs if pair.figures.row.setting in floors
    )
    note = (
        "`wrapped` is a subclass in the client's process whose `__torch_dispatch__` runs each operator on the plain "
        "tensors inside: the floor of a device whose operators are Python. Operators are those that PyTorch dispatches "
        "in a local step, the optimizer's among them, each call of a foreach operator counted once. With `resident`, "
        "the client prepares operators while the daemon computes."
    )
    return Table("operators", "What an operator of eager code costs", columns, rows, 2, note)


def _pairs(study: Study) -> list[_Pair]:
    found = figures_of(study)
    local = {f.row.setting: f for f in found if f.row.mode == "local"}
    return [_Pair(f, local[f.row.setting]) for f in found if f.row.setting in local]


def _named(row: Row) -> tuple[str, ...]:
    return row.model, row.network, FLOORS[row.phase], row.mode


def _step(pair: _Pair) -> tuple[str, ...]:
    f, row = pair.figures, pair.figures.row
    judged = row.mode == "resident" and row.model == JUDGED
    ratio, limit = statistics.median(pair.times), TIMES_LOCAL[row.phase]
    return (
        *_named(row),
        seconds(f.p50_s),
        seconds(pair.local.p50_s),
        f"{ratio:.3f} x",
        f"{min(pair.times):.2f} to {max(pair.times):.2f}",
        _aim(ratio, limit, f"<= {limit:g} x") if judged else "",
        nbytes(f.step_bytes),
        nbytes(f.kernel_step_bytes),
        _aim(_larger(f), STEP_BYTES, f"<= {STEP_BYTES:,}") if judged and row.phase == "train" else "",
        f"{f.tokens_s or 0:,.1f}",
        megabytes(row.client_peak_bytes),
        "none" if row.mode == "local" else megabytes(row.daemon_peak_bytes),
    )


def _larger(f: Figures) -> float:
    """Return the larger of both counts of bytes: an aim is met by both, or it is not."""
    return max(f.step_bytes, f.kernel_step_bytes or 0)


def _aim(value: float, limit: float, text: str) -> str:
    return f"{text} {'met' if value <= limit else '**NOT met**'}"


def _operator(pair: _Pair, floor: float) -> tuple[str, ...]:
    whole, added = pair.per_operator()
    row = pair.figures.row
    is_local = row.mode == "local"
    return (
        row.model,
        row.mode,
        f"{pair.local.row.operators:,}",
        seconds(pair.figures.p50_s),
        seconds(whole),
        "0" if is_local else seconds(added),
        "" if is_local else f"{added / floor:.2f} x" if floor > 0 else NOT_MEASURED,
    )
