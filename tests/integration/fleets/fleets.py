"""Two daemons and what crossed between them, for tests of placement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.runtime.wire import messages as m
from tests.integration.real_daemon import RealDaemon, eventually

LATENCY_S, BYTES_PER_S = 1e-4, 1e9
"""Links are given and not measured, so that placements are the same in every run of the tests."""


@dataclass(frozen=True)
class Traffic:
    """Bytes by tensor class: from the client, to it, and from daemon to daemon as both of them count it."""

    sent: Counter[str]
    received: Counter[str]
    peer_sent: Counter[str]
    peer_received: Counter[str]

    def __sub__(self, other: Traffic) -> Traffic:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Traffic(
            *(Counter({k: mine[k] - theirs[k] for k in mine if mine[k] != theirs[k]}) for mine, theirs in pairs)
        )


class Fleet:
    """Daemons that `compile` spreads a model over."""

    def __init__(self, daemons: list[RealDaemon]) -> None:
        self.daemons = daemons
        self.endpoints = [daemon.endpoint for daemon in daemons]

    def options(self, **options: Any) -> dict[str, Any]:
        ends = ["client", *self.endpoints]
        links = [f"{one}~{other}={LATENCY_S},{BYTES_PER_S}" for i, one in enumerate(ends) for other in ends[i + 1 :]]
        return {"daemons": self.endpoints, "links": links, **options}

    def compile(self, target: Any, **options: Any) -> Any:
        return torch.compile(target, backend=genie, options=self.options(**options))

    def inspections(self) -> list[m.Inspection]:
        """Ask each daemon what this process's session there has done."""
        dynamo_genie.connect(**self.options())  # nothing, where an earlier call of the test has opened the sessions
        by_endpoint = {connection.endpoint: connection.session for connection in CONNECTIONS.all()}
        return [by_endpoint[endpoint].inspect() for endpoint in self.endpoints]

    def traffic(self) -> Traffic:
        """Return what was moved so far, once nothing is on its way any more."""
        seen: list[Traffic] = []

        def settled() -> bool:
            seen.append(self._traffic())
            return seen[-1].peer_sent == seen[-1].peer_received

        assert eventually(settled), f"what was sent is not what arrived: {seen[-1]}"
        return seen[-1]

    def _traffic(self) -> Traffic:
        states = self.inspections()
        total = dynamo_genie.stats()["total"]
        peer_sent: Counter[str] = Counter()
        peer_received: Counter[str] = Counter()
        for state in states:
            peer_sent.update(dict(state.peer_sent))
            peer_received.update(dict(state.peer_received))
        return Traffic(Counter(total["sent"]), Counter(total["received"]), peer_sent, peer_received)


@contextmanager
def fleet_of(*memory_limits: str, more: Sequence[str] = ()) -> Iterator[Fleet]:
    """Run one daemon for each memory limit ("0": what the machine has), with `more` options."""
    dynamo_genie.shutdown()  # sessions that other tests of this process left open
    with ExitStack() as running:
        running.callback(dynamo_genie.shutdown)
        yield Fleet([running.enter_context(RealDaemon(memory_limit=limit, more=more)) for limit in memory_limits])
