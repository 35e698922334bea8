"""A broken connection is not a lost session: holes, resets and spoiled bytes cost time, and every call runs once."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.attachment.trust import Trust
from dynamo_genie.tensor.remote_tensor import handle_of
from tests.integration.real_daemon import RealDaemon
from tests.trust.proxy import HOST, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER_PORTS = 6

SECONDS = 6.0
"""How long there is trouble; a hole takes a second, and comes again a third of one after it."""


class Net(NamedTuple):
    """A daemon behind a proxy; `options` lead a compiled function there."""

    daemon: RealDaemon
    proxy: Proxy
    options: dict[str, object]


def free_ports(count: int) -> int:
    """Return the first of some neighbouring ports that nobody uses, on any address."""
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                for host in ("127.0.0.1", HOST):
                    with socket.socket() as probe:
                        probe.bind((host, port))
            return first
        except OSError:
            continue


@pytest.fixture(scope="module", params=["plain", "keys"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    keys: Path | None = None
    options: dict[str, object] = {}
    if request.param == "keys":
        keys = tmp_path_factory.mktemp("keys")
        options["key_file"] = str(create_client_keys(create_server_keys(keys), "one"))
    first = free_ports(WORKER_PORTS)
    with RealDaemon(keys=keys, more=("--worker-ports", f"{first}-{first + WORKER_PORTS - 1}")) as daemon:
        port = int(daemon.endpoint.rpartition(":")[2])
        with Proxy([port, *range(first, first + WORKER_PORTS)]) as proxy:
            yield Net(daemon, proxy, {**options, "daemons": [f"tcp://{HOST}:{port}"]})


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    yield
    dynamo_genie.shutdown()


def session_of(tensor: Tensor) -> object:
    handle = handle_of(tensor)
    assert handle is not None
    return handle.session


class Trouble:
    """Makes trouble in a thread of its own until it is told to stop."""

    def __init__(self, proxy: Proxy, kind: str) -> None:
        self._proxy, self._kind = proxy, kind
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times = 0

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            self.times += 1
            if self._kind == "spoiled":
                self._proxy.spoil()
            elif self._kind == "holes":
                with self._proxy.hole():
                    self._stop.wait(1.0)
            else:
                self._proxy.cut()

    def __enter__(self) -> Trouble:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join(10)


@pytest.mark.parametrize("kind", ["holes", "resets", "spoiled"])
def test_every_write_in_place_runs_once_whatever_the_network_does(net: Net, kind: str) -> None:
    if kind == "spoiled" and "key_file" not in net.options:
        pytest.skip("without keys nothing tells spoiled bytes from others")
    count = torch.compile(lambda x: x.add_(1), backend=genie, options=net.options)
    start = torch.compile(lambda x: x * 0, backend=genie, options=net.options)
    with torch.no_grad():
        total = start(torch.ones(3))
        session = session_of(total)
        count(total)
        assert total.tolist() == [1.0] * 3
        done = 1
        until = time.monotonic() + SECONDS
        with Trouble(net.proxy, kind) as trouble:
            while time.monotonic() < until:
                for _ in range(random.randrange(1, 40)):
                    count(total)
                    done += 1
                assert total.tolist() == [float(done)] * 3
        assert trouble.times >= 3
        assert total.tolist() == [float(done)] * 3
        assert session_of(total) is session
        assert CONNECTIONS.all()[0].session is session
    if kind != "holes":
        assert dynamo_genie.stats()["total"]["reconnects"] > 0


@pytest.mark.parametrize("kind", ["holes", "resets", "spoiled"])
def test_large_tensors_arrive_whole_whatever_the_network_does(net: Net, kind: str) -> None:
    if kind == "spoiled" and "key_file" not in net.options:
        pytest.skip("without keys nothing tells spoiled bytes from others")
    double = torch.compile(lambda x: x + x, backend=genie, options=net.options)
    with torch.no_grad():
        double(torch.ones(2)).tolist()
        with Trouble(net.proxy, kind):
            for seed in range(5):
                x = torch.randn(3 << 20, generator=torch.Generator().manual_seed(seed))
                assert torch.equal(dynamo_genie.to_local(double(x)), x + x)


@pytest.mark.parametrize("answer", [False, True])
def test_a_message_that_is_lost_on_a_connection_that_goes_on_is_sent_again(
    net: Net, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "key_file" not in net.options:
        pytest.skip("without keys more depends on the byte that is changed")
    count = torch.compile(lambda x: x.add_(1), backend=genie, options=net.options)
    start = torch.compile(lambda x: x * 0, backend=genie, options=net.options)
    with torch.no_grad():
        total = start(torch.ones(3))
        assert total.tolist() == [0.0] * 3
        session = CONNECTIONS.all()[0].session
        monkeypatch.setattr(session._commands, "_trust", Trust(first_s=1.0))
        control = int(session.attachment.welcome.control.rpartition(":")[2])
        before = session.counters.events["reconnects"]
        count(total)
        net.proxy.lose(control, answer=answer)
        assert total.tolist() == [1.0] * 3
        assert session.counters.events["reconnects"] == before + 1, "it was lost"
        count(total)
        assert total.tolist() == [2.0] * 3
        assert session_of(total) is session


@pytest.mark.parametrize("hole_s", [2.0, 5.0, pytest.param(12.0, marks=pytest.mark.sweep)])
def test_a_hole_costs_its_own_time(net: Net, hole_s: float) -> None:
    negative = torch.compile(torch.neg, backend=genie, options=net.options)
    with torch.no_grad():
        kept = negative(torch.ones(4))
        kept.tolist()
        ended = [0.0]

        def hole() -> None:
            with net.proxy.hole():
                time.sleep(hole_s)  # the hole itself
            ended[0] = time.monotonic()

        thread = threading.Thread(target=hole)
        thread.start()
        time.sleep(0.1)
        assert negative(kept).tolist() == [1.0] * 4
        back = time.monotonic()
        thread.join()
        assert kept.tolist() == [-1.0] * 4
        assert len(net.daemon.statuses(net.options.get("key_file"))) == 1  # type: ignore[arg-type]  # a path, if any
    print(f"hole of {hole_s:g} s: noticed {max(0.0, back - ended[0]):.2f} s after its end")


def test_a_loop_of_calls_without_a_read_is_bounded_on_both_sides(net: Net) -> None:
    step = torch.compile(lambda x: x + 1, backend=genie, options=net.options)
    with torch.no_grad():
        x = step(torch.zeros(2))
        x.tolist()
        before = rss(net.daemon.worker()), rss("self")
        for _ in range(100_000):
            x = step(x)
        after = rss(net.daemon.worker()), rss("self")
        assert x.tolist() == [100_001.0] * 2
    grown = [late - early for late, early in zip(after, before, strict=True)]
    assert max(grown) < 48 << 20, grown


def rss(pid: int | str) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))
