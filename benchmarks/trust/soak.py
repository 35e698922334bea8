"""A soak: sessions come and go, calls of any shape, programs fail or are cancelled; memory must not grow."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import count

from dynamo_genie.bench.daemon import RunningDaemon
from dynamo_genie.bench.report import Figure, Say, at_most
from dynamo_genie.bench.trust.client_process import ordered_clients
from dynamo_genie.bench.trust.memory_over_time import MemoryOverTime, MemoryUse

CLIENT = "dynamo_genie.bench.trust.soaking_client"
GROWTH_MIB = 1.0
SETTLE_S = 0.2
"""A worker that has nothing to do gives memory back after some hundredths of a second."""
TURN_LIMIT_S = 120.0
LEAST_LOOKS = 3
"""So many looks after the warm-up make a line."""


@dataclass(frozen=True)
class SoakPlan:
    """How long to soak and look, how long allocators and caches may fill before that, and which numbers to draw."""

    seconds: float
    warm_up_s: float
    seed: int


def measure_soak(
    daemon: RunningDaemon, key_file: str, plan: SoakPlan, details: dict[str, object], say: Say
) -> list[Figure]:
    """Soak a daemon and a client, and look at their memory between turns of a second."""
    with ordered_clients(CLIENT, [[daemon.endpoint, key_file, str(plan.seed)]]) as (client,):
        status = daemon.status
        (worker,) = status.workers
        memory = MemoryOverTime({"client": client.pid, "supervisor": status.pid, "worker": worker.pid})
        say(f"soaking for {plan.seconds:g} s, after {plan.warm_up_s:g} s of warm-up")
        descriptors: dict[str, list[int]] = {name: [] for name in memory.pids}
        for second in count(1):
            client.say("soak")
            client.answer(TURN_LIMIT_S)
            time.sleep(SETTLE_S)
            memory.look()
            for name, pid in memory.pids.items():
                descriptors[name].append(MemoryUse.of(pid).descriptors)
            passed_s = [at - memory.seconds[0] for at in memory.seconds]  # the first turn compiles everything
            if (
                passed_s[-1] >= plan.warm_up_s + plan.seconds
                and sum(at >= plan.warm_up_s for at in passed_s) >= LEAST_LOOKS
            ):
                break
            if second % 60 == 0:
                say(", ".join(f"{name} {sizes[-1] / 1024:.1f} MiB" for name, sizes in memory.rss_kib.items()))
        client.say("count")
        done = json.loads(client.answer(TURN_LIMIT_S))
    details["soak"] = {
        "seconds": plan.seconds,
        "warm_up_s": plan.warm_up_s,
        "done": done,
        "at_s": [round(at - memory.seconds[0], 1) for at in memory.seconds],
        "rss_kib": memory.rss_kib,
    }
    warm = sum(at - memory.seconds[0] < plan.warm_up_s for at in memory.seconds)
    return [
        *(Figure(f"soak: {what}", number, "") for what, number in done.items()),
        *(figure for name in memory.pids for figure in _growth(name, *memory.growth_mib(name, plan.warm_up_s))),
        *(
            Figure(f"soak: most descriptors of the {name}", max(found[warm:]), "", max(found[: warm + 1]))
            for name, found in descriptors.items()
        ),
    ]


def _growth(name: str, slope: float, error: float) -> tuple[Figure, Figure]:
    return (
        at_most(f"soak: growth of the {name} in 10 min", slope, "MiB", GROWTH_MIB),
        Figure(f"soak: standard error of the {name}'s", error, "MiB"),
    )
