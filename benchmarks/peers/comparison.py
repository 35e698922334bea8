"""Runs all systems in turns and writes the study's document of it."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dynamo_genie.bench.machine import describe_machine
from dynamo_genie.bench.network import open_network, parse_network
from dynamo_genie.bench.peers.systems import SYSTEMS, System, Work, missing
from dynamo_genie.bench.study.records import Gap, Row, Study, write_study
from dynamo_genie.bench.study.rows import first_difference

WARM_UP_STEPS = 6
GENIE = "genie (semantic)"
ECHO = "pyzmq echo"


@dataclass
class _Contestant:
    system: System
    token: int = 0
    tokens: list[int] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    void: str = ""

    def begin(self) -> None:
        self.token = self.system.begin()
        self.tokens = [self.token]

    def step(self) -> float:
        start = time.perf_counter()
        self.token = self.system.step(self.token)
        taken = time.perf_counter() - start
        self.tokens.append(self.token)
        return taken

    def compare(self, right: list[int]) -> None:
        """Note the first token of all repeats that is not the right one: a later repeat does not mend it."""
        self.void = self.void or first_difference(right, self.tokens)


def compare(work: Work, steps: int, repeats: int, path: Path, say: Callable[[str], None]) -> Study:
    """Measure a decode step by way of each system, in turns within one run.

    Each repeat begins with the prompt; one step of each system is taken after the other, in an order that turns.
    """
    gaps = [Gap(name, why) for name in SYSTEMS if (why := missing(name))]
    with open_network(parse_network("loopback"), ("client", "server")) as network, ExitStack() as running:
        write_study(path, _document(work, repeats, network.shape, gaps))
        there = _started(work, running, gaps, say)
        for _ in range(2):
            _together(there, WARM_UP_STEPS)
        moved: Counter[str] = Counter()
        study = _document(work, repeats, network.shape, gaps)
        write_study(path, study)
        for number in range(repeats):
            say(f"repeat {number + 1} of {repeats}")
            for one in there.values():
                one.begin()
            _together(there, WARM_UP_STEPS, begin=False)
            before = _sent()
            for name, seconds in _together(there, steps, begin=False).items():
                there[name].seconds.append(seconds)
            moved.update({name: n - before[name] for name, n in _sent().items()})
            for name, one in there.items():
                if name != ECHO:
                    one.compare(there["local"].tokens)
            rows = tuple(_row(name, one, work, network.shape.name, moved) for name, one in there.items())
            study = _with(study, rows, complete=number + 1 == repeats)
            write_study(path, study)
    return study


def _started(work: Work, running: ExitStack, gaps: list[Gap], say: Callable[[str], None]) -> dict[str, _Contestant]:
    """Start what can be started, to its first token; what cannot becomes a gap, unless all others depend on it."""
    there: dict[str, _Contestant] = {}
    for name, opener in SYSTEMS.items():
        if any(gap.what == name for gap in gaps):
            continue
        say(f"starting {name}")
        with ExitStack() as starting:
            try:
                one = _Contestant(starting.enter_context(opener(work)))
                one.begin()
            except Exception as error:
                if name in ("local", GENIE):
                    raise
                reason = (str(error).splitlines() or [""])[0]
                gaps.append(Gap(name, f"could not be started: {type(error).__name__}: {reason}"))
                say(f"not measured: {name}: {gaps[-1].reason}")
                continue
            there[name] = one
            running.push(starting.pop_all())
    return there


def _together(there: dict[str, _Contestant], steps: int, *, begin: bool = True) -> dict[str, list[float]]:
    """Take steps of all systems in turns; return seconds by name."""
    names = list(there)
    if begin:
        for one in there.values():
            one.begin()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(steps):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(there[name].step())
    return taken


def _sent() -> Counter[str]:
    """Return what genie moved so far: by tensor class, with the direction before it."""
    import dynamo_genie

    total = dynamo_genie.stats()["total"]
    ways = ("sent", "received")
    return Counter({f"{way} {name}": n for way in ways for name, n in total.get(way, {}).items()})


def _row(name: str, one: _Contestant, work: Work, network: str, moved: Counter[str]) -> Row:
    ours = {way: {k.split()[1]: n for k, n in moved.items() if k.startswith(way) and n} for way in ("sent", "received")}
    return Row(
        mode=name,
        phase="decode",
        model=work.model,
        dtype="float32",
        device="cpu",
        network=network,
        prompt=work.prompt,
        seconds=tuple(map(tuple, one.seconds)),
        steps=sum(map(len, one.seconds)),
        sent=ours["sent"] if name == GENIE else {},
        received=ours["received"] if name == GENIE else {},
        void=one.void,
    )


def _document(work: Work, repeats: int, shape: Any, gaps: list[Gap]) -> Study:
    arguments = sys.argv[1:]
    arguments = arguments[arguments.index("peers") :] if "peers" in arguments else ["peers"]
    return Study(
        experiment="peers",
        command=shlex.join(["genie", "bench", *arguments]),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seed=work.seed,
        repeats=repeats,
        complete=False,
        machine=describe_machine(),
        networks=(shape,),
        rows=(),
        gaps=tuple(gaps),
    )


def _with(study: Study, rows: tuple[Row, ...], *, complete: bool) -> Study:
    import msgspec

    return msgspec.structs.replace(study, rows=rows, complete=complete)
