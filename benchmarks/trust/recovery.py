"""Workers, or supervisors, that are killed under generations and training: the same bits, and after how long.

One program generates and trains again and again, in a session for each work, while what serves it is killed at steps
drawn from a seed, at any moment of a step. Every run is compared with the undisturbed one.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.daemon import RunningDaemon, running_daemon
from dynamo_genie.bench.report import Figure, Measured, Say, at_least, at_most
from dynamo_genie.bench.trust.generating import STEPS, WAYS, DisturbedGeneration
from dynamo_genie.bench.trust.killing import Death, Killer
from dynamo_genie.bench.trust.tiny_models import TINY
from dynamo_genie.bench.trust.training import PHASES, DisturbedTraining
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.errors import GenieError
from dynamo_genie.runtime.recovery.recovered import Recovered

TRAINING = "training"
WORKS = (*(f"{model} {way}" for model in TINY for way in WAYS), TRAINING)
STRETCH = 8
"""One kill in so many steps."""
TO_NEXT_S = 1.0
"""With a standby: from the kill to the next token, without the replay."""
SUPERVISOR_PAUSE_S = 15.0
"""Between two kills of a supervisor, which is given up when it dies too often in a minute."""

Compile = Callable[[Any], Any]


@dataclass(frozen=True)
class RecoveryPlan:
    """What to kill, and under what.

    Attributes:
        works: Names of `WORKS`.
        supervisor: Kill the supervisor instead of the worker.
        standby: Let the daemon keep PyTorch loaded for the next worker.
    """

    kills: int
    works: Sequence[str]
    supervisor: bool
    standby: bool
    seed: int


@dataclass(frozen=True)
class KilledWork:
    """What came of one work.

    Attributes:
        kills: How often it was killed.
        equal: How many of these were in runs that were equal to the undisturbed one.
        runs: How many runs there were, those in which nobody was killed too.
        step_s: The median time of an undisturbed step.
    """

    name: str
    kills: int
    equal: int
    runs: int
    step_s: float
    deaths: Sequence[Death]


def measure_recovery(plan: RecoveryPlan, say: Say) -> Measured:
    """Kill as often as planned, the works taking equal shares.

    Raises:
        GenieError: Work did not go on, or was not equal to local eager even undisturbed.
    """
    each, more = divmod(plan.kills, len(plan.works))
    done: list[KilledWork] = []
    with running_daemon(kept=plan.supervisor, more=["--standby"] if plan.standby else []) as daemon:
        try:
            for number, name in enumerate(plan.works):
                if kills := each + (number < more):
                    done.append(_kill_under(name, kills, daemon, plan))
                    say(_line(done[-1]))
        finally:
            dynamo_genie.shutdown()
    return Measured(_figures(done, plan), {"plan": _as_dict(plan), "works": [_details(work) for work in done]})


def _kill_under(name: str, kills: int, daemon: RunningDaemon, plan: RecoveryPlan) -> KilledWork:
    torch.compiler.reset()
    dynamo_genie.shutdown()  # a session tells the next worker of all programs that it ever had
    options: dict[str, Any] = {"daemons": [daemon.endpoint]}
    work = _work(name, lambda target: torch.compile(target, backend=genie, options=options))
    expected, step_s = _undisturbed(work)
    killer = Killer(
        lambda: daemon.supervisor_pid if plan.supervisor else daemon.worker_pid,
        _recoveries,
        random.Random(f"{plan.seed} {name}"),
        SUPERVISOR_PAUSE_S if plan.supervisor else 0.0,
    )
    work.on_progress, work.happens = killer.progressed, lambda: killer.strike(step_s)
    steps, equal, runs = random.Random(f"{plan.seed} steps of {name}"), 0, 0
    length = PHASES if name == TRAINING else STEPS
    while killer.kills < kills or killer.waiting:
        firsts = range(1, length + 1, STRETCH)
        chosen = sorted(min(length, first + steps.randrange(STRETCH)) for first in firsts)
        work.at = frozenset(chosen[: kills - killer.kills])
        before = killer.kills
        same = _values(work) == expected
        runs += 1
        equal += (killer.kills - before) * same
        if not same and killer.kills == before:
            raise GenieError(f"{name}: a run that nobody disturbed, after one that was, gave other values")
    if len(killer.deaths) != killer.kills:
        raise GenieError(f"{name}: {killer.kills} kills, and {len(killer.deaths)} recoveries")
    return KilledWork(name, killer.kills, equal, runs, step_s, killer.deaths)


def _work(name: str, compile_: Compile) -> DisturbedGeneration | DisturbedTraining:
    if name == TRAINING:
        return DisturbedTraining(compile_)
    model, way = name.split()
    return DisturbedGeneration(model, compile_, **WAYS[way])


def _undisturbed(work: DisturbedGeneration | DisturbedTraining) -> tuple[list[Any], float]:
    """Return what a run gives that nobody disturbs, and the median time of its steps; two of them compile it."""
    marks: list[float] = []
    work.on_progress = lambda: marks.append(time.monotonic())
    found = []
    for _ in range(3):
        marks.clear()
        found.append(_values(work))
    if found[0] != found[2] or (isinstance(work, DisturbedGeneration) and found[0] != [work.expected.tolist()]):
        raise GenieError("a run that nobody disturbed is not equal to local eager, or to the next one")
    return found[0], statistics.median(b - a for a, b in pairwise(marks))


def _values(work: DisturbedGeneration | DisturbedTraining) -> list[Any]:
    result = work.run()
    return [tensor.tolist() for tensor in (result if isinstance(result, list) else [result])]


def _recoveries() -> tuple[int, Recovered | None]:
    """Return how often the only session of this process went on at another worker, and how long that took last."""
    (connection,) = CONNECTIONS.all()
    recovery = connection.session.recovery
    assert recovery is not None
    return recovery.count, recovery.clock.last


# --- what is said of it --------------------------------------------------------------------------------------

_PARTS: MappingProxyType[str, Callable[[Death], float]] = MappingProxyType(
    {
        "kill to next token": lambda death: death.to_next_s,
        "the same without the replay": lambda death: death.to_next_s - death.recovered.replayed_s,
        "of it until it was noticed": lambda death: death.noticed_s,
        "until another worker let the session in": lambda death: death.recovered.waited_s,
        "until that had programs and weights": lambda death: death.recovered.resident_s,
        "until it had replayed": lambda death: death.recovered.replayed_s,
    }
)
_JUDGED = "the same without the replay"


def _spread(samples: Sequence[float]) -> dict[str, float]:
    p90 = statistics.quantiles(samples, n=10)[8] if len(samples) > 1 else samples[0]
    return {"p50": statistics.median(samples), "p90": min(p90, max(samples)), "max": max(samples)}


def _figures(done: Sequence[KilledWork], plan: RecoveryPlan) -> list[Figure]:
    kills = sum(work.kills for work in done)
    figures = [at_least(f"kills after which all was equal, of {kills}", sum(work.equal for work in done), "", kills)]
    deaths = [death for work in done for death in work.deaths]
    for name, part in _PARTS.items():
        for which, seconds in _spread([part(death) for death in deaths]).items():
            title = f"{name}, {which}"
            judged = name == _JUDGED and plan.standby and not plan.supervisor
            figures.append(at_most(title, seconds, "s", TO_NEXT_S) if judged else Figure(title, seconds, "s"))
    return figures


def _line(work: KilledWork) -> str:
    spread = _spread([death.to_next_s for death in work.deaths])
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spread.items())
    return f"{work.name}: {work.equal} of {work.kills} equal, kill to next {times}"


def _details(work: KilledWork) -> dict[str, object]:
    parts = {name: [round(part(death), 4) for death in work.deaths] for name, part in _PARTS.items()}
    counts = {"kills": work.kills, "equal": work.equal, "runs": work.runs}
    return {"name": work.name, **counts, "step_ms": round(work.step_s * 1e3, 2), "seconds": parts}


def _as_dict(plan: RecoveryPlan) -> dict[str, object]:
    killed = "the supervisor" if plan.supervisor else "the worker"
    return {
        "kills": plan.kills,
        "killed": killed,
        "standby": plan.standby,
        "seed": plan.seed,
        "sessions": "one for each work",
    }
