"""Tables of pipelines: one call on two daemons beside the same call on one, measured or predicted."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dynamo_genie.bench.study.records import Row, Study
from dynamo_genie.bench.study.report.table import NOT_MEASURED, Table, seconds

CALLS = ("prefill", "vision")
"""Phases that are calls; `after` is the wait that follows one, `decode` the tokens that follow a prompt."""


@dataclass(frozen=True)
class Shared:
    """A call in two daemons with a layout, and the same call otherwise.

    Attributes:
        auto: The row of two daemons that may share it out.
        one: Of one daemon.
        off: Of two daemons that may not; None where that is as one.
        after: Of the wait after `auto`.
    """

    auto: Row
    one: Row
    off: Row | None
    after: Row | None

    @property
    def times(self) -> list[float]:
        """For each turn, how many times as fast as one daemon two are."""
        return [_total(one) / _total(auto) for one, auto in zip(self.one.seconds, self.auto.seconds, strict=False)]

    @property
    def label(self) -> str:
        """Its rows, for people."""
        return rows_text(self.auto)


def shared_calls(study: Study) -> Iterator[Shared]:
    """Yield every call that two daemons shared, with its right answers."""
    good = {_key(row): row for row in study.rows if not row.void}
    for row in good.values():
        one = good.get(_key(row, mode="one", placement=""))
        if row.phase in CALLS and row.mode == "auto" and one is not None:
            yield Shared(row, one, good.get(_key(row, mode="off")), good.get(_key(row, phase="after")))


def pipelines(study: Study) -> Table:
    """How many times as fast as one daemon two are, with a call shared out."""
    columns = (
        "Model", "Rows", "Network", "Caches", "`one`", "two, `off`", "two, `auto`", "Times as fast as `one`",
        "Least to most", "Times as fast as `off`", "Until all is done", "Daemon to daemon (MB)", "Daemons busy (%)",
    )  # fmt: skip
    rows = [_cells(shared) for shared in shared_calls(study)]
    void = [
        (row.model, rows_text(row), row.network, row.placement, f"void: {row.void}", *[""] * (len(columns) - 5))
        for row in study.rows
        if row.void and row.phase in CALLS
    ]
    note = (
        "Medians. Every bit of the logits is that of `one`; a row in which one differs is void. Ratios are the median "
        "over turns, in each of which every way was called once. Caches are `gathered` on the daemon that decodes, "
        "where one has room for the model, or `spread`, where a memory limit lets none have weights and caches with "
        "the room to grow that placement wants for them; with room, two daemons with `off` are as one. `Until all is "
        "done` is what the daemons take until caches are where they belong, after the logits are here. 200 % is two "
        "daemons at work all the time."
    )
    return Table("pipelines", "A call on two daemons", columns, (*rows, *void), 4, note)


def decoded(study: Study) -> Table:
    """What a token takes after a prompt that two daemons shared."""
    columns = (
        "Model",
        "Rows",
        "Network",
        "Way",
        "Caches",
        "Tokens",
        "A token (median)",
        "Moved a token (B)",
    )
    rows = [
        (
            row.model, rows_text(row), row.network, row.mode, row.placement, str(row.steps),
            seconds(statistics.median(row.seconds[0])), f"{sum(row.peer_bytes.values()) / row.steps:,.0f}",
        )
        for row in study.rows
        if row.phase == "decode" and not row.void
    ]  # fmt: skip
    note = (
        "Tokens, and all bits of all caches after the prompt and after the last token, are those of `one`. The first "
        "tokens compile; they are among the tokens, and no median."
    )
    return Table("decoded", "Tokens after the prompt", columns, tuple(rows), 5, note)


def foretold(study: Study) -> Table:
    """What the cost model foretold of a call on two daemons, beside what it took."""
    columns = (
        "Model", "Rows", "Network", "Caches", "Parts", "Cost model alone", "With measured parts", "Measured",
        "Cost model misses by", "With measured parts by",
    )  # fmt: skip
    rows = [
        (
            row.model, rows_text(row), row.network, row.placement, str(each.parts), seconds(each.predicted_s),
            seconds(each.simulated_s), seconds(each.ran_s), _miss(each.predicted_s, each.ran_s),
            _miss(each.simulated_s, each.ran_s),
        )
        for row in study.rows
        if (each := row.foretold) is not None and not row.void
    ]  # fmt: skip
    note = (
        "One call, from its beginning until its last part ended. The cost model alone knows the speed of daemons and "
        "links as they were measured once, and takes operators by roofline; with measured parts, the same simulation "
        "is given what each part took in that call."
    )
    return Table("foretold", "Foretold and measured: two daemons", columns, tuple(rows), 4, note)


def predicted(study: Study) -> Table:
    """What the cost model says of more daemons and other links."""
    columns = ("Model", "Rows", "Link", "One daemon", "2 daemons", "4 daemons", "8 daemons")
    groups: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in study.rows:
        group = groups.setdefault((row.model, rows_text(row), row.network), {})
        group[row.mode] = statistics.median(second for turn in row.seconds for second in turn)
    rows = tuple((*names, *_counts(found)) for names, found in groups.items())
    note = (
        "PREDICTED, not measured: the simulation by which plans are chosen, for daemons as fast as one thread here and "
        "links of that rate with 0.1 ms. In brackets, how many times as fast as one daemon."
    )
    return Table("predicted", "Predicted: a call on more daemons", columns, rows, 3, note)


def rows_text(row: Row) -> str:
    """Return what a call has rows of."""
    return f"{row.prompt:,} tokens" if row.prompt else f"{row.batch} images"


def _cells(shared: Shared) -> tuple[str, ...]:
    auto, times = shared.auto, shared.times
    busy = None if auto.busy_s is None else auto.busy_s / sum(map(_total, auto.seconds))
    return (
        auto.model,
        shared.label,
        auto.network,
        auto.placement,
        seconds(_median(shared.one)),
        _off(shared),
        seconds(_median(auto)),
        f"{statistics.median(times):.2f} x",
        f"{min(times):.2f} to {max(times):.2f}",
        "" if shared.off is None else f"{_median(shared.off) / _median(auto):.2f} x",
        NOT_MEASURED if shared.after is None else seconds(_median(shared.after)),
        f"{sum(auto.peer_bytes.values()) / auto.steps / 1e6:,.1f}",
        NOT_MEASURED if busy is None else f"{busy * 100:.0f}",
    )


def _miss(foretold_s: float, ran_s: float) -> str:
    return f"{(foretold_s - ran_s) / ran_s * 100:+.1f} %"


def _off(shared: Shared) -> str:
    if shared.off is not None:
        return seconds(_median(shared.off))
    return NOT_MEASURED if shared.auto.placement == "spread" else "as `one`"


def _counts(found: Mapping[str, float]) -> Iterator[str]:
    for count in ("1", "2", "4", "8"):
        if count not in found:
            yield "not predicted"
        elif count == "1":
            yield seconds(found[count])
        else:
            yield f"{seconds(found[count])} ({found['1'] / found[count]:.2f} x)"


def _key(row: Row, **changes: str) -> tuple[object, ...]:
    found = {"mode": row.mode, "placement": row.placement, "phase": row.phase, **changes}
    return (*found.values(), row.model, row.dtype, row.network, row.prompt, row.batch)


def _total(turn: tuple[float, ...]) -> float:
    return sum(turn)


def _median(row: Row) -> float:
    return statistics.median(map(_total, row.seconds))
