"""A client that ends its worker again and again disturbs no other tenant, and costs its own one time but no value."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, RealDaemon, environment, eventually
from tests.trust.hostile import HostileClient
from tests.trust.test_workers import Availability

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CRASHES = 4
"""More than a program needs to be quarantined; so it is another one each time."""

PEACE = 20
"""Calls of the neighbour between one crash and the next, at least."""

NEIGHBOUR = """if True:
    import sys, threading, torch, dynamo_genie
    from dynamo_genie.backend import genie
    options = {"daemons": [sys.argv[1]], "key_file": sys.argv[2]}
    count = torch.compile(lambda x: x.add_(1), backend=genie, options=options)
    zeros = torch.compile(lambda x: x * 0, backend=genie, options=options)
    recoveries = lambda: dynamo_genie.stats()["total"]["recoveries"]
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    with torch.no_grad():
        total = zeros(torch.ones(2))
        print(total.tolist(), flush=True)
        calls = late = undisturbed = 0
        while not stop.is_set():
            before = recoveries()
            count(total)
            calls += 1
            found = total.tolist()
            assert found == [calls] * 2, (found, calls)
            undisturbed = 0 if recoveries() > before else undisturbed + 1
            late += undisturbed == 0
            if undisturbed == PEACE:
                print("at peace", flush=True)
    print(calls, late, recoveries(), flush=True)
""".replace("PEACE", str(PEACE))


class Tenants(NamedTuple):
    """A daemon, and the keys of two tenants."""

    daemon: RealDaemon
    mine: Path
    theirs: Path


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    server = create_server_keys(tmp_path)
    mine, theirs = (create_client_keys(server, name) for name in ("mine", "theirs"))
    with RealDaemon(keys=tmp_path) as daemon:
        yield Tenants(daemon, mine, theirs)
        dynamo_genie.shutdown()


def fatal(salt: int) -> p.Program:
    """Return a program that divides the smallest number by -1, which is a SIGFPE, and like which there is no other."""
    divide = p.Node("aten.div.Tensor_mode", (p.Ref(0), -1), (("rounding_mode", "trunc"),))
    return p.Program(
        p.PROGRAM_VERSION, (p.TensorInput(),), (), (divide, p.Node("aten.add.Tensor", (p.Ref(1), salt))), (p.Ref(2),)
    )


SMALLEST = InlineTensor(TensorSpec("int64", (1,), (1,)), (-(1 << 63)).to_bytes(8, "little", signed=True))


def crash(tenants: Tenants, salt: int) -> None:
    """End the worker of a tenant, and return when it has ended."""
    before = tenants.daemon.status(tenants.mine).pid
    with HostileClient(tenants.daemon.endpoint, tenants.mine) as client:
        client.call(client.register(fatal(salt)), SMALLEST)
        assert eventually(lambda: before not in [w.pid for w in tenants.daemon.statuses(tenants.mine)], LIMIT_S)


def test_a_crash_loop_disturbs_no_other_tenant_and_spoils_no_value_of_its_own(tenants: Tenants) -> None:
    options = {"daemons": [tenants.daemon.endpoint], "key_file": str(tenants.theirs), "recovery": "off"}
    double = torch.compile(lambda x: x * 2, backend=genie, options=options)
    numbers = itertools.count(1)

    wrong = []

    def call_of_another_tenant() -> None:
        number = float(next(numbers))
        if double(torch.full((4,), number)).tolist() != [2 * number] * 4:
            wrong.append(number)
        time.sleep(0.005)  # so that starting workers find a processor

    call_of_another_tenant()
    endpoint = tenants.daemon.endpoint
    with subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR, endpoint, str(tenants.mine)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    ) as same_tenant:
        try:
            assert same_tenant.stdout is not None
            assert same_tenant.stdout.readline() == "[0.0, 0.0]\n"
            with Availability(call_of_another_tenant) as other:
                for salt in range(CRASHES):
                    assert same_tenant.stdout.readline() == "at peace\n"
                    crash(tenants, salt)
                assert same_tenant.stdout.readline() == "at peace\n"
            out, log = same_tenant.communicate("enough\n", timeout=LIMIT_S)
        finally:
            same_tenant.kill()
    assert same_tenant.returncode == 0, log[-3000:]
    calls, late, recoveries = map(int, out.split())
    print(f"other tenant: {other.calls} calls, {other.share:.2%} answered; same: {calls} calls, {late} recovered")
    assert other.share >= 0.9
    assert other.calls > 100
    assert wrong == []
    assert CRASHES <= late <= recoveries <= 2 * CRASHES, "every other call was answered at the first attempt"
    assert calls >= CRASHES * PEACE
