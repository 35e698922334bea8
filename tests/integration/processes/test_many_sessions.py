"""A thousand sessions, opened and dropped in good order or not, leave nothing behind in the daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dynamo_genie.bench.study.gpu import Gpu
from tests.integration.real_daemon import RealDaemon, eventually, run_python

SESSIONS, WARM_SESSIONS, A_CLIENT = 1_000, 100, 50
TOLERANCE_NBYTES = 32 << 20
"""Each session leaves 2 MiB: a leak of one in fifty of them is more."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory use from /proc"),
]

CLIENT = """
import os, sys
import torch, zmq
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p

ADD_ONE = p.encode_program(
    p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.add.Scalar", (p.Ref(0), 1)),), (p.Ref(1),))
)
context = zmq.Context()
sessions = []
for number in range(int(sys.argv[2])):
    session = open_session(context, sys.argv[1], keys=None, connect_timeout_s=30, request_timeout_s=30)
    program = session.register(p.program_digest(ADD_ONE), ADD_ONE, ())
    given, result = session.put(torch.full((1 << 18,), float(number))), session.new_handle()
    session.post(m.Call(program, 0, (given.id,), (result.id,)))
    [found] = session.fetch([result.id], ["output"])
    assert float(found[-1]) == number + 1
    sessions.append((session, given, result))
for session, *_ in sessions[::2]:
    session.close()
print("done", flush=True)
os._exit(0)  # the others end without a word
"""
"""A client that opens sessions, puts and computes 1 MiB in each, and closes every other one."""


def needs_gpu(device: str) -> object:
    return pytest.param(
        device,
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")],
    )


@pytest.fixture(scope="module", params=["cpu", needs_gpu("cuda")])
def daemon(request: pytest.FixtureRequest) -> Iterator[RealDaemon]:
    with RealDaemon(device=request.param, grace_s=2.0) as daemon:
        yield daemon


def use(daemon: RealDaemon, sessions: int) -> None:
    """Let clients open sessions and end, one after the other."""
    for _ in range(sessions // A_CLIENT):
        assert run_python(CLIENT, daemon.endpoint, str(A_CLIENT)).split() == ["done"]


def held_by(daemon: RealDaemon) -> dict[str, int]:
    """What would grow with a leak."""
    assert eventually(lambda: not daemon.status().sessions), "sessions outlive their leases"
    assert eventually(lambda: daemon.status().resident_nbytes == 0), "tensors outlive their sessions"
    pid = daemon.worker()
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")) + len(os.listdir(f"/proc/{daemon.pid}/fd")),
        "memory": int(rss.split()[1]) * 1024,
        "gpu": Gpu().memory_of([pid]) or 0,
    }


def test_a_thousand_sessions_leave_nothing_behind(daemon: RealDaemon) -> None:
    use(daemon, WARM_SESSIONS)
    before = held_by(daemon)
    use(daemon, SESSIONS - WARM_SESSIONS)
    after = held_by(daemon)
    assert after["descriptors"] <= before["descriptors"] + 2
    assert after["memory"] - before["memory"] < TOLERANCE_NBYTES, (before, after)
    assert after["gpu"] - before["gpu"] < TOLERANCE_NBYTES, (before, after)
