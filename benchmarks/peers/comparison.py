"""Runs all systems in turns and writes the study's document of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.network import open_network, parse_network
from dynamo_genie.bench.peers.systems import SYSTEMS, DecodeWork, System, missing
from dynamo_genie.bench.report import Say
from dynamo_genie.bench.study.records import Gap, Row, Study, begun_study, write_study
from dynamo_genie.bench.study.rows import first_difference

WARM_UP_STEPS = 6
GENIE = "genie (semantic)"
ECHO = "pyzmq echo"


@dataclass
class _Contestant:
    system: System
    tokens: list[int] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    void: str = ""

    def begin(self) -> None:
        self.tokens = [self.system.begin()]

    def step(self) -> None:
        self.tokens.append(self.system.step(self.tokens[-1]))

    def compare(self, right: list[int]) -> None:
        """Note the first token of all repeats that is not the right one: a later repeat does not mend it."""
        self.void = self.void or first_difference(right, self.tokens)


def compare(work: DecodeWork, steps: int, repeats: int, path: Path, say: Say) -> Study:
    """Measure a decode step by way of each system, in turns within one run.

    Each repeat begins with the prompt; one step of each system is taken after the other, in an order that turns.
    """
    gaps = [Gap(name, why) for name in SYSTEMS if (why := missing(name))]
    with open_network(parse_network("loopback"), ("client", "server")) as network, ExitStack() as running:
        write_study(path, begun_study("peers", work.seed, repeats, (network.shape,), tuple(gaps)))
        there = _started(work, running, gaps, say)
        steps_of = {name: one.step for name, one in there.items()}
        for _ in range(2):
            _begin_all(there, steps_of)
        moved: Counter[str] = Counter()
        study = begun_study("peers", work.seed, repeats, (network.shape,), tuple(gaps))
        write_study(path, study)
        for number in range(repeats):
            say(f"repeat {number + 1} of {repeats}")
            _begin_all(there, steps_of)
            before = _sent()
            for name, seconds in in_turns(steps_of, steps).items():
                there[name].seconds.append(seconds)
            moved.update({name: n - before[name] for name, n in _sent().items()})
            for name, one in there.items():
                if name != ECHO:
                    one.compare(there["local"].tokens)
            rows = tuple(_row(name, one, work, network.shape.name, moved) for name, one in there.items())
            study = msgspec.structs.replace(study, rows=rows, complete=number + 1 == repeats)
            write_study(path, study)
    return study


def _started(work: DecodeWork, running: ExitStack, gaps: list[Gap], say: Say) -> dict[str, _Contestant]:
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


def _begin_all(there: Mapping[str, _Contestant], steps_of: Mapping[str, Callable[[], None]]) -> None:
    """Let all feed the prompt and take the first steps, which count for nothing."""
    for one in there.values():
        one.begin()
    in_turns(steps_of, WARM_UP_STEPS)


def _sent() -> Counter[str]:
    """Return what genie moved so far: by tensor class, with the direction before it."""
    import dynamo_genie

    total = dynamo_genie.stats()["total"]
    ways = ("sent", "received")
    return Counter({f"{way} {name}": n for way in ways for name, n in total.get(way, {}).items()})


def _row(name: str, one: _Contestant, work: DecodeWork, network: str, moved: Counter[str]) -> Row:
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
