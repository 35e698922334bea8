"""Every call runs exactly once: several clients count, while their network stands still, is cut, and workers die.

Workers record what they run, and the record is checked: each command once, in order, with the values of plain torch.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import dynamo_genie
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, RealDaemon, children_of, environment
from tests.remote_daemon.recording_worker import NAME, read_record
from tests.trust.proxy import HOST, Proxy
from tests.trust.test_connections import WORKER_PORTS, free_ports
from tests.wire_history import HistoryChecker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CLIENTS, CALLS = 8, 2_000
SECONDS = 40.0
"""How long there is trouble, about; clients that count on afterwards do so in peace."""

CODE = f"""if True:
    import sys, torch
    from dynamo_genie.backend import genie
    torch.set_num_threads(1)
    options = {{"daemons": [sys.argv[1]]}}
    count = torch.compile(lambda x: x.add_(1), backend=genie, options=options)
    zeros = torch.compile(lambda x: x * 0, backend=genie, options=options)
    with torch.no_grad():
        total = zeros(torch.ones(2))
        print(total.tolist(), flush=True)
        sys.stdin.readline()
        for done in range(1, {CALLS} + 1):
            count(total)
            if done % 50 == 0:
                found = total.tolist()
                assert found == [done] * 2, (found, done)
                torch.ones(200, 200) @ torch.ones(200, 200)
    print(total.tolist(), flush=True)
"""


class RecordingDaemon(RealDaemon):
    program = ("-m", NAME)


@pytest.fixture(scope="module")
def behind_a_proxy() -> Iterator[tuple[RealDaemon, Proxy, str]]:
    first = free_ports(WORKER_PORTS)
    with RecordingDaemon(more=("--worker-ports", f"{first}-{first + WORKER_PORTS - 1}")) as daemon:
        port = int(daemon.endpoint.rpartition(":")[2])
        with Proxy([port, *range(first, first + WORKER_PORTS)]) as proxy:
            yield daemon, proxy, f"tcp://{HOST}:{port}"
    dynamo_genie.shutdown()


@pytest.mark.parametrize("kills", [pytest.param(False, marks=pytest.mark.sweep), True])
def test_eight_clients_count_to_what_they_called(behind_a_proxy: tuple[RealDaemon, Proxy, str], kills: bool) -> None:
    daemon, proxy, endpoint = behind_a_proxy
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=REPOSITORY,
        )
        for _ in range(CLIENTS)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == b"[0.0, 0.0]\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
        generator, until, died = random.Random(7), time.monotonic() + SECONDS, 0
        while time.monotonic() < until and any(client.poll() is None for client in clients):
            time.sleep(generator.uniform(0.2, 0.8))  # between one trouble and the next
            if kills and died < 3 and generator.random() < 0.3 and len(children_of(daemon.pid)) == 1:
                os.kill(daemon.worker(), signal.SIGKILL)
                died += 1
            elif generator.random() < 0.5:
                proxy.cut()
            else:
                with proxy.hole():
                    time.sleep(generator.uniform(0.1, 1.0))  # the hole itself
        for client in clients:
            out, log = client.communicate(timeout=LIMIT_S)
            assert client.returncode == 0, log.decode()[-3000:]
            assert out == f"[{CALLS:.1f}, {CALLS:.1f}]\n".encode()
        assert died > 0 or not kills
        checker = HistoryChecker()
        checker.check(read_record(daemon.log()))
        assert checker.commands > CLIENTS * CALLS
    finally:
        for client in clients:
            client.kill()
            client.wait()
