"""A thousand sessions on one daemon with keys: how fast they come, what they cost, what is left afterwards.

Clients and daemon share the machine, so the rate is that of both sides together.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dynamo_genie.bench.daemon import STATUS_LIMIT_S, RunningDaemon, running_daemon
from dynamo_genie.bench.report import Figure, Measured, Say, at_least, at_most
from dynamo_genie.bench.trust.client_process import OrderedClient, ordered_clients
from dynamo_genie.bench.trust.memory_over_time import MemoryUse
from dynamo_genie.bench.trust.soak import SoakPlan, measure_soak
from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.keys import load_client_keys

CROWD = "dynamo_genie.bench.trust.crowd"
SESSIONS_PER_S = 150.0
LIMIT_S = 300.0
STAY_S = 5.0
"""How long sessions stay and say nothing: some heartbeats."""


@dataclass(frozen=True)
class LoadPlan:
    """What to measure."""

    sessions: int
    clients: int
    soak_s: float
    warm_up_s: float
    seed: int


def measure_load(plan: LoadPlan, say: Say) -> Measured:
    """Measure a crowd of sessions, then a soak of so many seconds, each on a daemon of its own.

    Raises:
        GenieError: A session read a wrong value, or was lost.
    """
    details: dict[str, object] = {"plan": asdict(plan)}
    figures: list[Figure] = []
    if plan.sessions:
        with keyed_daemon() as (daemon, key_file):
            figures += _crowd(daemon, key_file, plan, details, say)
    if plan.soak_s:
        with keyed_daemon() as (daemon, key_file):
            figures += measure_soak(daemon, key_file, SoakPlan(plan.soak_s, plan.warm_up_s, plan.seed), details, say)
    return Measured(figures, details)


@contextlib.contextmanager
def keyed_daemon() -> Iterator[tuple[RunningDaemon, str]]:
    """Start a daemon that admits one key; yield it and the key's file. Its worker is there."""
    with tempfile.TemporaryDirectory(prefix="genie-bench-") as folder:
        key_file = create_client_keys(create_server_keys(Path(folder, "keys")), "client")
        with running_daemon(more=["--keys", str(Path(folder, "keys"))]) as started:
            daemon = RunningDaemon(started.endpoint, load_client_keys(key_file))
            with ordered_clients(CROWD, [[daemon.endpoint, str(key_file), "0", "1"]]) as (first,):
                for order in ("open", "call", "close"):
                    _together([first], order)
            yield daemon, str(key_file)


def _crowd(daemon: RunningDaemon, key_file: str, plan: LoadPlan, details: dict[str, object], say: Say) -> list[Figure]:
    each, more = divmod(plan.sessions, plan.clients)
    counts = [each + (number < more) for number in range(plan.clients)]
    arguments = [[daemon.endpoint, key_file, str(1000 + sum(counts[:i])), str(n)] for i, n in enumerate(counts)]
    before = _memory(daemon)
    with ordered_clients(CROWD, arguments) as clients:
        say(f"opening {plan.sessions} sessions from {plan.clients} client processes")
        opened_s = _together(clients, "open")
        first_s = _together(clients, "call")
        say(f"all computed; they stay for {STAY_S:g} s")
        time.sleep(STAY_S)
        during = _memory(daemon)
        there = len(daemon.worker.sessions)
        again_s = _together(clients, "call")
        closed_s = _together(clients, "close")
        _wait_until_gone(daemon)
        after = _memory(daemon)
        say("opening as many again, and killing their worker")
        _together(clients, "open")
        _together(clients, "call")
        os.kill(daemon.worker_pid, signal.SIGKILL)
        survived_s = _together(clients, "call")
    if there != plan.sessions:
        raise GenieError(f"{there} of {plan.sessions} sessions were there after {STAY_S:g} s")
    details["seconds"] = {"open": opened_s, "first calls": first_s, "later calls": again_s, "close": closed_s}
    details["seconds_after_a_death"] = survived_s
    details["memory"] = {
        when: {name: asdict(use) for name, use in found.items()}
        for when, found in (("before", before), ("with all sessions", during), ("after they left", after))
    }
    n = plan.sessions
    return [
        at_least(f"sessions opened a second, {n} with keys", n / opened_s, "/s", SESSIONS_PER_S),
        Figure("first calls a second, value read, in all of them", n / first_s, "/s"),
        Figure(f"the same after {STAY_S:g} s of silence", n / again_s, "/s"),
        Figure(f"the worker killed under {n} sessions: until all had called again", survived_s, "s"),
        at_most("sessions lost", n - there, "", 0),
        *(figure for name in before for figure in _cost(name, before[name], during[name], after[name], n)),
    ]


def _cost(name: str, before: MemoryUse, during: MemoryUse, after: MemoryUse, sessions: int) -> Iterator[Figure]:
    yield Figure(f"{name}: resident before", before.rss_kib / 1024, "MiB")
    yield Figure(f"{name}: its own share of that (PSS)", before.pss_kib / 1024, "MiB")
    yield Figure(f"{name}: with {sessions} sessions", during.rss_kib / 1024, "MiB")
    yield Figure(f"{name}: its own share of that (PSS), with them", during.pss_kib / 1024, "MiB")
    yield Figure(f"{name}: a session", (during.rss_kib - before.rss_kib) / sessions, "KiB")
    yield Figure(f"{name}: after they left", after.rss_kib / 1024, "MiB")
    yield at_most(f"{name}: descriptors left behind", after.descriptors - before.descriptors, "", 0)


def _together(clients: Sequence[OrderedClient], order: str) -> float:
    """Let all clients do the same at once; return how long it takes until the last one has done it."""
    start = time.perf_counter()
    for client in clients:
        client.say(order)
    for client in clients:
        client.answer(LIMIT_S)
    return time.perf_counter() - start


def _memory(daemon: RunningDaemon) -> dict[str, MemoryUse]:
    status = daemon.status
    (worker,) = status.workers
    return {"supervisor": MemoryUse.of(status.pid), "worker": MemoryUse.of(worker.pid)}


def _wait_until_gone(daemon: RunningDaemon) -> None:
    deadline = time.monotonic() + STATUS_LIMIT_S
    while (left := daemon.worker).sessions or left.resident_nbytes:
        if time.monotonic() > deadline:
            raise GenieError(f"{len(left.sessions)} sessions and {left.resident_nbytes} bytes outlived their clients")
        time.sleep(0.1)
