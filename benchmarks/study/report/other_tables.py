"""Tables of experiments with questions of their own: placement, networks, sessions, other systems."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from types import MappingProxyType

from dynamo_genie.bench.study.records import Study
from dynamo_genie.bench.study.report.figures import Figures, fairness, figures_of
from dynamo_genie.bench.study.report.table import NOT_MEASURED, Table, nbytes, seconds, share

LESS_TIME = MappingProxyType({128: 0.94, 1024: 0.98, 2048: 0.99})
"""What an earlier, simulated study reported for the time that co-location saves, by tokens in the cache."""
LESS_DATA = 0.992
"""The same of the bytes."""
MATTERS = 0.1
"""A mode stops mattering where it adds less than this share of the local step."""


def colocation(study: Study) -> Table:
    """Blind against co-located placement, per network and length of the cache."""
    found = [f for f in figures_of(study) if f.row.phase == "decode"]
    columns = (
        "Network", "Cache (tokens)", "Blind, of mode", "Blind: added a step", "Co-located: added a step",
        "Less time (%)", "Wanted (%)", "Blind: moved a step (B)", "Co-located: moved a step (B)", "Less data (%)",
        "Wanted (%)",
    )  # fmt: skip
    blind = [f for f in found if f.row.placement == "blind"]
    best = [f for f in found if f.row.placement == "semantic"]
    where = attrgetter("row.network", "row.prompt", "row.model")
    rows = tuple(_against(one, other) for other in best for one in blind if where(one) == where(other))
    note = (
        "Moved is what crosses any link: client and daemons, both ways, and daemon to daemon. Time that is added is "
        "the mean step less that of `local` in the same setting; where the co-located step is no slower than the local "
        "one, all of it is saved."
    )
    title = "Two daemons: caches by chance against caches with their attention"
    return Table("colocation", title, columns, rows, 3, note)


def _against(blind: Figures, best: Figures) -> tuple[str, ...]:
    moved, little = (f.step_bytes + f.peer_step_bytes for f in (blind, best))
    less_data = 1 - little / moved if moved else None
    if blind.added_s is None or best.added_s is None or blind.added_s <= 0:
        less_time = None
    else:
        less_time = min(1.0, 1 - best.added_s / blind.added_s)
    wanted = LESS_TIME.get(best.row.prompt)
    return (
        best.row.network,
        str(best.row.prompt),
        blind.row.mode,
        seconds(blind.added_s),
        seconds(best.added_s),
        share(less_time, 1),
        "" if wanted is None else f"{share(wanted)} {_met(less_time, wanted)}",
        nbytes(moved),
        nbytes(little),
        share(less_data, 2),
        f"{share(LESS_DATA, 1)} {_met(less_data, LESS_DATA)}",
    )


def _met(value: float | None, wanted: float) -> str:
    return NOT_MEASURED if value is None else "met" if value >= wanted else "NOT met"


def grid(study: Study) -> Table:
    """What each mode adds to a decode step, by network."""
    found = [f for f in figures_of(study) if f.row.phase == "decode"]
    names = list(dict.fromkeys(f.row.mode for f in found if f.row.mode != "local"))
    columns = ("Network", "Round trip obtained", "Rate obtained (Gbit/s)", "Local step", *(f"{n} adds" for n in names))
    rows = []
    for shape in study.networks:
        here = {f.row.mode: f for f in found if f.row.network == shape.name}
        if "local" not in here:
            continue
        rate = shape.obtained_rate_bits_s
        rows.append(
            (
                shape.name,
                seconds(shape.obtained_round_trip_s),
                NOT_MEASURED if rate is None else f"{rate / 1e9:.2f}",
                seconds(here["local"].mean_s),
                *(seconds(here[name].added_s) if name in here else NOT_MEASURED for name in names),
            )
        )
    return Table("grid", "What a decode step takes longer than a local one, by network", columns, tuple(rows), 1)


def crossover(study: Study) -> Table:
    """On which networks a mode no longer matters, by medians: a few steps are too few for means."""
    found = [f for f in figures_of(study) if f.row.phase == "decode"]
    local = {f.row.network: f.p50_s for f in found if f.row.mode == "local"}
    rows = []
    for name in dict.fromkeys(f.row.mode for f in found if f.row.mode != "local"):
        mine = {f.row.network: f.p50_s for f in found if f.row.mode == name and f.row.network in local}
        free = [network for network, p50_s in mine.items() if p50_s - local[network] < MATTERS * local[network]]
        dear = [network for network in mine if network not in free]
        rows.append((name, "; ".join(free) or "nowhere", "; ".join(dear) or "nowhere"))
    title = f"Where the median step is less than {MATTERS:.0%} above the local one, and where it is more"
    return Table("crossover", title, ("Mode", "Less on", "More on"), tuple(rows), 3)


def sessions(study: Study) -> Table:
    """Throughput and fairness of sessions that decode at the same time."""
    found = [f for f in figures_of(study) if f.row.phase == "decode" and f.row.mode != "local"]
    columns = ("Sessions", "Mode", "Tokens/s, all", "Step p50", "Step p99", "Jain's index", "Slowest over fastest")
    note = (
        "Tokens of all sessions over the time of the slowest one. Jain's index is 1 when all sessions are equally fast "
        "(R. Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984)."
    )
    return Table("sessions", "Several clients of one daemon", columns, tuple(map(_together, found)), 2, note)


def _together(f: Figures) -> tuple[str, ...]:
    return (
        str(f.row.sessions), f.row.mode, f"{throughput(f):,.1f}", seconds(f.p50_s), seconds(f.p99_s), *_fair(f)
    )  # fmt: skip


def throughput(f: Figures) -> float:
    """Return tokens a second of all sessions together."""
    times = f.row.session_seconds or (sum(s for repeat in f.row.seconds for s in repeat),)
    return f.row.steps / max(times)


def _fair(f: Figures) -> tuple[str, str]:
    times = f.row.session_seconds
    return (f"{fairness(times):.4f}", f"{max(times) / min(times):.3f} x") if len(times) > 1 else ("", "")


def peers(study: Study) -> Table:
    """The same decode work by way of other systems."""
    found = figures_of(study)
    local = next((f for f in found if f.row.mode == "local"), None)
    columns = ("System", "Step, median", "Added to local, median", "p99", "Bytes a step")
    rows = []
    for f in found:
        added = None if local is None else f.p50_s - local.p50_s
        moved = nbytes(f.step_bytes) if f.row.sent else NOT_MEASURED
        if f is local:
            added_text, moved_text = "0", "0"
        else:
            added_text, moved_text = "computes nothing" if "echo" in f.row.mode else seconds(added), moved
        rows.append((f.row.mode, seconds(f.p50_s), added_text, seconds(f.p99_s), moved_text))
    return Table("peers", "A decode step by way of several systems", columns, tuple(rows), 1, _verdict(found, local))


def _verdict(found: Sequence[Figures], local: Figures | None) -> str:
    ours = next((f for f in found if f.row.mode.startswith("genie")), None)
    others = [f for f in found if f not in (ours, local) and "echo" not in f.row.mode]
    if ours is None or local is None or not others:
        return "No verdict: genie, local and another system are needed for one."
    best = min(others, key=lambda f: f.p50_s)
    mine, theirs = ours.p50_s - local.p50_s, best.p50_s - local.p50_s
    word = "no more than" if mine <= theirs else "MORE than"
    return (
        f"genie adds {seconds(mine)}, {word} the best peer, {best.row.mode}, with {seconds(theirs)}. The echo answers "
        "at once and computes nothing: its step is the floor of what a round trip takes, not a decode step. genie's "
        "daemon grows caches in place, where local and the peers' servers copy them: part of the difference is that."
    )
