"""A client that does whatever clients do, in an order drawn from a seed, for about a second each time that it is asked.

`python -m dynamo_genie.bench.trust.soaking_client ENDPOINT KEY_FILE SEED` answers each line `soak` with `done`, and
`count` with how often it did what, as JSON. A wrong value, or an error that should not be, ends it.
"""

from __future__ import annotations

import gc
import json
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import zmq
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.trust.crowd import Guest
from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.channel.connection_limits import raise_descriptor_limit
from dynamo_genie.remote_daemon.memory.host_memory import trim_host_memory
from dynamo_genie.runtime.connect.keys import load_client_keys

TURN_S = 1.0
MAX_GUESTS, MAX_KEPT = 8, 32
PATIENCE_S = 0.03
LONG_SIDE, LONG_STEPS = 256, 300


def _product(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y).relu().sum(0)


def _count(x: Tensor) -> Tensor:
    return x.add_(1)


def _pick(x: Tensor, rows: Tensor) -> Tensor:
    return x[rows] * 2


def _long(x: Tensor) -> Tensor:
    for _ in range(LONG_STEPS):
        x = torch.mm(x, x).clamp(-0.5, 0.5)
    return x


class SoakingClient:
    """Sessions that come and go, and one that stays, through which compiled functions call."""

    def __init__(self, endpoint: str, key_file: str, seed: int) -> None:
        self._endpoint, self._keys = endpoint, load_client_keys(key_file)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._random = random.Random(seed)
        options: dict[str, Any] = {"daemons": [endpoint], "key_file": key_file}

        def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return torch.compile(function, backend=genie, options=options, dynamic=True)

        self._product, self._pick, self._long = compiled(_product), compiled(_pick), compiled(_long)
        self._count = compiled(_count)
        self._guests: deque[Guest] = deque()
        self._kept: deque[tuple[Tensor, Tensor]] = deque(maxlen=MAX_KEPT)
        self._opened = 0
        self.done: Counter[str] = Counter()

    def soak(self) -> None:
        """Do things for a while; in the end let go of all, and give back what the C library keeps for later.

        Sizes are drawn, so what is in use, and what is kept for later in pieces of any size, is more now and less then.
        What is still there without both grows only if something is held. A worker gives back when a session has left.
        """
        actions = (self._visit, self._compute, self._compute, self._write, self._upload, self._fail, self._cancel)
        until = time.monotonic() + TURN_S
        while time.monotonic() < until:
            action = self._random.choice(actions)
            with torch.no_grad():
                action()
        self._kept.clear()
        with torch.no_grad():
            self._write()  # frees what was kept, too
        while self._guests:
            self._leave()
        gc.collect()
        trim_host_memory()

    def _visit(self) -> None:
        """Open a session, or let some that are open compute, or end one."""
        if len(self._guests) < MAX_GUESTS:
            self._opened += 1
            self._guests.append(Guest(self._context, self._endpoint, self._keys, self._opened))
        else:
            self._leave()
        for guest in self._guests:
            guest.call()
            self.done["calls of these"] += 1

    def _leave(self) -> None:
        self._guests.popleft().close()
        self.done["sessions that came and went"] += 1

    def _compute(self) -> None:
        """Call with shapes that nobody has seen, and keep the result for a while."""
        rows, inner, columns = (self._random.randint(2, 200) for _ in range(3))
        x, y = torch.randn(rows, inner), torch.randn(inner, columns)
        self._kept.append((self._product(x, y), _product(x, y)))
        found, expected = self._random.choice(self._kept)
        _require(found + 1, expected + 1)
        self.done["calls of random shapes"] += 1

    def _write(self) -> None:
        """Write in place, several times, before the result is read."""
        times, size = self._random.randint(1, 40), self._random.randint(2, 4_000)
        total = self._product(torch.zeros(2, 3), torch.zeros(3, size))
        for _ in range(times):
            self._count(total)
        _require(total, torch.full((size,), float(times)))
        self.done["writes in place"] += times

    def _upload(self) -> None:
        """Send and read back what does not fit into a message."""
        x = torch.randn(self._random.randint(20_000, 400_000))
        rows = torch.arange(x.shape[0] - 1, -1, -1)
        _require(self._pick(x, rows), x.flip(0) * 2)
        self.done["uploads"] += 1

    def _fail(self) -> None:
        """Let a program fail, and notice it where its result is read."""
        size = self._random.randint(2, 100)
        result = self._pick(torch.randn(size), torch.tensor([size + 1]))
        try:
            result.tolist()
        except IndexError:
            self.done["programs that failed"] += 1
        else:
            raise GenieError("an index out of range was read")

    def _cancel(self) -> None:
        """Lose patience while a long program runs, as Ctrl-C does."""
        result = self._long(torch.randn(LONG_SIDE, LONG_SIDE))  # the first time it is compiled
        try:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
            try:
                result.tolist()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            self.done["programs that were cancelled"] += 1


def _require(found: Tensor, expected: Tensor) -> None:
    """Raise unless a result is what this process computes, up to how it rounds."""
    if not torch.allclose(dynamo_genie.to_local(found), expected, rtol=1e-4, atol=1e-4):
        raise GenieError("a call gave another value than this process computes")


def _lose_patience(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Do what is asked until there is no more input."""
    endpoint, key_file, seed = sys.argv[1:]
    raise_descriptor_limit()
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    signal.signal(signal.SIGALRM, _lose_patience)
    client = SoakingClient(endpoint, key_file, int(seed))
    print("ready", flush=True)  # the other side reads it
    for line in sys.stdin:
        if line.strip() == "count":
            print(json.dumps(client.done), flush=True)
        else:
            client.soak()
            print("done", flush=True)


if __name__ == "__main__":
    main()
