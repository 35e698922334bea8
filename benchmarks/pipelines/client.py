"""The client of a setting, in a process of its own: one model, compiled once for each way, called in turns.

`python -m dynamo_genie.bench.pipelines.client` reads an order from standard input and answers on standard output, one
JSON document each; what libraries print goes to standard error.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dynamo_genie.bench.alternate import seconds_of
from dynamo_genie.bench.machine import use_one_thread
from dynamo_genie.bench.pipelines.orders import Answer, Order, WayOrder, WayTaken
from dynamo_genie.bench.study.records import Foretold
from dynamo_genie.errors import GenieError

if TYPE_CHECKING:
    from dynamo_genie.bench.pipelines.work import ImageWork, PromptWork

Moved = Mapping[str, Counter[str]]


def main() -> None:
    """Carry out one order."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    use_one_thread()
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    answers.write(msgspec.json.encode(Answer(tuple(measured(order)))))
    answers.flush()


def measured(order: Order) -> list[WayTaken]:
    """Measure the ways of an order in turns; who is first changes from turn to turn."""
    import dynamo_genie
    from dynamo_genie.bench.pipelines.models import build
    from dynamo_genie.bench.pipelines.work import work_of
    from dynamo_genie.tensors import TORCH_DTYPES

    dtype = TORCH_DTYPES[order.dtype]
    model = build(order.model, dtype, order.seed)
    work = work_of(order, model.config, dtype)
    ways = [Contender(model, work, way) for way in order.ways]
    try:
        for way in ways:
            way.warm_up(order.warm_ups)
        for turn in range(order.measured):
            for i in range(len(ways)):
                ways[(turn + i) % len(ways)].take()
        for way in ways:
            way.decode(order.tokens)
            way.watch(order.watched)
        return [way.taken() for way in ways]
    finally:
        dynamo_genie.shutdown()


@dataclass
class Contender:
    """A way, and what was taken of it so far; one that fails takes no further part."""

    model: Any
    work: PromptWork | ImageWork
    way: WayOrder
    seconds: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    moved: dict[str, Counter[str]] = field(default_factory=dict)
    decode_peer_bytes: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0
    foretold: Foretold | None = None
    error: str = ""

    def __post_init__(self) -> None:
        self.compiled = self._compiled()

    def warm_up(self, times: int) -> None:
        """Compile, place, upload."""
        for _ in range(times):
            self._guarded(lambda: self.work.call(self.compiled))

    def take(self) -> None:
        """Measure one call."""
        self._guarded(self._take)

    def decode(self, tokens: int) -> None:
        """Decode tokens after a prompt, to compare them and the caches."""
        if tokens:
            self._guarded(lambda: self._decode(tokens))

    def watch(self, wanted: bool) -> None:
        """Call once more, watched, if that is wanted of this way and it may be shared out."""
        if wanted and self.way.mode == "auto":
            self._guarded(self._watch)

    def taken(self) -> WayTaken:
        """Return all that was taken."""
        sent, received, peers = (dict(sorted(self.moved.get(n, Counter()).items())) for n in _MOVED)
        return WayTaken(
            tuple(self.seconds), tuple(self.after), tuple(self.tokens), sent, received, peers, self.busy_s,
            dict(self.decode_peer_bytes), tuple(self.answers), self.foretold, self.error,
        )  # fmt: skip

    def _take(self) -> None:
        import dynamo_genie

        before, _ = counted()
        graphs = _graphs_compiled()
        self.seconds.append(seconds_of(lambda: self.answers.append(self.work.call(self.compiled))))
        self.after.append(seconds_of(dynamo_genie.synchronize))
        if _graphs_compiled() != graphs:
            raise GenieError("graphs were compiled during a measured call; more warm-up is needed")
        now, busy_s = counted()
        for name, change in difference(now, before).items():
            self.moved.setdefault(name, Counter()).update(change)
        self.busy_s += busy_s

    def _decode(self, tokens: int) -> None:
        import torch

        from dynamo_genie.bench.pipelines.work import PromptWork

        assert isinstance(self.work, PromptWork)
        torch.compiler.reset()  # else the graphs of all ways together pass Dynamo's limit of recompilations
        self.answers += self.work.begin(self.compiled)
        prefilled, _ = counted()
        times, answers = self.work.decode(self.compiled, tokens)
        now, _ = counted()
        self.tokens += times
        self.answers += [*answers, *self.work.end()]
        self.decode_peer_bytes.update(difference(now, prefilled)["peers"])

    def _watch(self) -> None:
        import torch

        from dynamo_genie.bench.pipelines.foretold import foretold

        torch.compiler.reset()
        with tempfile.TemporaryDirectory() as folder:
            compiled = self._compiled(debug_dir=folder)
            for _ in range(2):
                self.work.call(compiled)
            self.foretold = foretold(Path(folder))

    def _compiled(self, **more: str) -> Callable[..., Any]:
        import torch

        options: dict[str, Any] = {"progress": False, **self.way.options, **more}
        return torch.compile(self.model, backend="genie", options=options)

    def _guarded(self, act: Callable[[], object]) -> None:
        """Do something for a way that has not failed yet."""
        if self.error:
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            self.error = f"{type(error).__name__}: {error}".splitlines()[0]


_MOVED = ("sent", "received", "peers")


def counted() -> tuple[Moved, float]:
    """Return what moved so far, and how long daemons computed since they were last asked."""
    import dynamo_genie
    from dynamo_genie.connections.connections import CONNECTIONS

    total = dynamo_genie.stats()["total"]
    states = [connection.session.inspect() for connection in CONNECTIONS.all()]
    peers: Counter[str] = Counter()
    for state in states:
        peers.update(dict(state.peer_sent))
    busy_s = sum(ended - began for state in states for _, began, ended in state.spans) * 1e-9
    return {"sent": Counter(total["sent"]), "received": Counter(total["received"]), "peers": peers}, busy_s


def difference(after: Moved, before: Moved) -> dict[str, Counter[str]]:
    """Return what moved meanwhile, of each kind; classes of which nothing did are left out."""
    return {name: after[name] - before[name] for name in after}


def _graphs_compiled() -> int:
    from dynamo_genie.torch_internals.compile_context import graphs_compiled

    return graphs_compiled()


if __name__ == "__main__":
    main()
