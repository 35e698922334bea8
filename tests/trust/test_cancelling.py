"""Work that nobody waits for ends between two operators: of a session that left, and after Ctrl-C."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.errors import ProgramCancelled
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, RealDaemon, environment, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OPERATORS = 1_000


def heavy(x: Tensor) -> Tensor:
    """Many operators of some milliseconds each."""
    for _ in range(OPERATORS):
        x = torch.mm(x, x).clamp(-0.5, 0.5)
    return x


@pytest.fixture
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon() as daemon:
        yield daemon
        dynamo_genie.shutdown()


def busy(daemon: RealDaemon) -> bool:
    """Whether the worker has computed for a while."""
    with open(f"/proc/{daemon.worker()}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK") > busy.before + 0.5  # type: ignore[attr-defined]


def note_idle(daemon: RealDaemon) -> None:
    with open(f"/proc/{daemon.worker()}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    busy.before = int(fields[11]) / os.sysconf("SC_CLK_TCK")  # type: ignore[attr-defined]


CODE = """if True:
    import sys, torch
    from dynamo_genie.backend import genie
    from tests.trust.test_cancelling import heavy
    call = torch.compile(heavy, backend=genie, options={"daemons": [sys.argv[1]]})
    with torch.no_grad():
        result = call(torch.randn(1000, 1000))
        print("sent", flush=True)
        result.sum().item()
"""


def test_the_program_of_a_client_that_was_killed_is_cancelled(daemon: RealDaemon) -> None:
    add = torch.compile(lambda x: x + 1, backend=genie, options={"daemons": [daemon.endpoint]})
    with torch.no_grad():
        assert add(torch.ones(2)).tolist() == [2.0, 2.0]
    note_idle(daemon)
    worker = daemon.worker()
    with subprocess.Popen(
        [sys.executable, "-c", CODE, daemon.endpoint], stdout=subprocess.PIPE, env=environment(), cwd=REPOSITORY
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"sent\n"
        assert eventually(lambda: busy(daemon), LIMIT_S)
        client.send_signal(signal.SIGINT)  # it closes its session in good order
        client.wait(LIMIT_S)
    with torch.no_grad():
        assert add(torch.ones(2)).tolist() == [2.0, 2.0]
    assert daemon.worker() == worker
    [session] = daemon.status().sessions
    assert session.calls <= 2


def test_ctrl_c_cancels_what_it_was_waited_for(daemon: RealDaemon) -> None:
    options = {"daemons": [daemon.endpoint]}
    call = torch.compile(heavy, backend=genie, options=options)
    count = torch.compile(lambda x: x.add_(1), backend=genie, options=options)
    zeros = torch.compile(lambda x: x * 0, backend=genie, options=options)
    with torch.no_grad():
        total = zeros(torch.ones(2))
        total.tolist()
        note_idle(daemon)
        result = call(torch.randn(1000, 1000))
        dependent = result + 1
        count(total)
        interrupter = threading.Thread(
            target=lambda: (eventually(lambda: busy(daemon), LIMIT_S), _thread.interrupt_main())
        )
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            result.sum().item()
        interrupter.join()
        assert total.tolist() == [1.0, 1.0], "what writes runs"
        with pytest.raises(ProgramCancelled, match="Ctrl-C ended the wait"):
            dependent.sum().item()
        assert count(total).tolist() == [2.0, 2.0]
