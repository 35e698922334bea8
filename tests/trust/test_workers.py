"""A worker that stands still or dies costs its sessions no more than that, and a busy one is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.errors import DaemonUnavailable, GenieError, ProgramQuarantined, SessionLost
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.remote_daemon.supervisor.memory_groups import OVERHEAD_NBYTES
from dynamo_genie.remote_daemon.supervisor.quarantine import DEATHS
from tests.integration.real_daemon import RealDaemon, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOTICED_S = 5.0
CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    yield
    dynamo_genie.shutdown()


def on(daemon: RealDaemon, function: Callable[..., Tensor], key: Path | None = None) -> Callable[..., Tensor]:
    options = {"daemons": daemon.endpoint, "recovery": "off"}  # what ended the session is asked for here
    if key is not None:
        options["key_file"] = str(key)
    return torch.compile(function, backend="genie", options=options)


def double(x: Tensor) -> Tensor:
    return x * 2


def divide(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="trunc")


SMALLEST = torch.tensor([torch.iinfo(torch.int64).min])
"""Divided by -1 it is a SIGFPE, in eager PyTorch too."""


def test_a_stopped_worker_is_noticed_within_five_seconds_and_replaced() -> None:
    with RealDaemon() as daemon:
        step = on(daemon, double)
        assert step(torch.ones(4)).sum().item() == 8.0
        worker = daemon.worker()
        os.kill(worker, signal.SIGSTOP)
        stopped = time.monotonic()
        with pytest.raises(SessionLost, match="has not answered for 4 s and done nothing meanwhile"):
            step(torch.ones(4)).sum().item()
        assert time.monotonic() - stopped < NOTICED_S + 1.0
        assert eventually(lambda: step(torch.ones(4)).sum().item() == 8.0)
        assert daemon.worker() != worker


def test_a_worker_that_is_busy_for_long_is_left_alone() -> None:
    with RealDaemon() as daemon:
        run = on(daemon, lambda x: torch.cdist(x, x, p=1.5).sum())  # one operator, of some 10 s
        assert isfinite(run(torch.rand(8, 8)).item())
        worker = daemon.worker()
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            started = time.monotonic()
            while time.monotonic() - started < 2 * NOTICED_S:
                assert isfinite(run(torch.rand(1_500, 256)).item())
        finally:
            for process in load:
                process.kill()
                process.wait()
        assert daemon.worker() == worker


def test_an_operator_beyond_its_timeout_costs_its_worker_and_is_named() -> None:
    with RealDaemon(more=["--operator-timeout", "3"]) as daemon:
        run = on(daemon, lambda x: torch.cdist(x, x, p=1.5).sum())
        assert isfinite(run(torch.rand(8, 8)).item())
        with pytest.raises(
            GenieError, match=r"operator \d+ of a program ran for .* s, longer than --operator-timeout 3"
        ):
            run(torch.rand(40_000, 256)).item()
        assert eventually(lambda: isfinite(run(torch.rand(8, 8)).item()))


def test_a_program_that_ended_three_workers_is_refused_and_the_neighbours_go_on(tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    mine, theirs = (create_client_keys(server, name) for name in ("mine", "theirs"))
    with RealDaemon(keys=tmp_path) as daemon:
        neighbour, crash, good = on(daemon, double, theirs), on(daemon, divide, mine), on(daemon, double, mine)
        neighbour(torch.ones(4)).sum().item()
        assert crash(torch.tensor([7]), torch.tensor([2])).item() == 3
        outcomes: list[type[Exception]] = []
        with Availability(lambda: neighbour(torch.ones(4)).sum().item()) as other:
            for _ in range(DEATHS):
                with pytest.raises(GenieError) as raised:
                    crash(SMALLEST, torch.tensor([-1])).item()
                outcomes.append(raised.type)
                eventually(lambda: len(daemon.statuses(mine)) == 1 and daemon.statuses(mine)[0].state == "ready")
            with pytest.raises(ProgramQuarantined, match="ended several workers"):
                crash(SMALLEST, torch.tensor([-1])).item()
        assert all(issubclass(outcome, DaemonUnavailable) for outcome in outcomes)
        assert good(torch.ones(4)).sum().item() == 8.0
        assert other.share >= 0.9
        assert other.calls > 100


@pytest.mark.skipif(not os.access(CGROUPS, os.W_OK), reason="needs a memory cgroup (version 1) of its own")
def test_a_worker_without_memory_is_said_to_have_had_none() -> None:
    group = CGROUPS / f"genie-test-{os.getpid()}"
    group.mkdir()
    try:
        with RealDaemon() as daemon:
            assert on(daemon, double)(torch.ones(4)).sum().item() == 8.0
            (group / "cgroup.procs").write_text(str(daemon.worker()))
            (group / "memory.limit_in_bytes").write_text(str(300 << 20))
            big = on(daemon, lambda x: (x.expand(400_000_000) + 1).sum())
            with pytest.raises(SessionLost, match="killed by SIGKILL: by the kernel, for lack of memory"):
                big(torch.ones(1)).item()
    finally:
        group.rmdir()


@pytest.mark.skipif(not os.access(CGROUPS, os.W_OK), reason="needs memory cgroups (version 1)")
def test_a_worker_with_a_memory_limit_has_a_cgroup_that_ends_with_it() -> None:
    with RealDaemon(memory_limit="256MiB") as daemon:
        assert on(daemon, double)(torch.ones(4)).sum().item() == 8.0
        lines = Path(f"/proc/{daemon.worker()}/cgroup").read_text().splitlines()
        (path,) = (line.split(":", 2)[2] for line in lines if ":memory:" in line)
        group = CGROUPS / path.lstrip("/")
        assert group.name.startswith(f"worker-{daemon.pid}-")
        assert int((group / "memory.limit_in_bytes").read_text()) == (256 << 20) + OVERHEAD_NBYTES
        os.kill(daemon.worker(), signal.SIGKILL)
        assert eventually(lambda: not group.exists())
        folder, pid = group.parent, daemon.pid
        assert eventually(lambda: list(folder.glob(f"worker-{pid}-*")))
    assert eventually(lambda: not list(folder.glob(f"worker-{pid}-*")))


class Availability:
    """How many of the calls in the block succeeded."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.calls = self._failed = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.is_set():
            self.calls += 1
            try:
                self._call()
            except GenieError:
                self._failed += 1

    @property
    def share(self) -> float:
        return 1 - self._failed / self.calls

    def __enter__(self) -> Availability:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
