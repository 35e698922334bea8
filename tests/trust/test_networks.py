"""Sessions on a network that loses packets, stands still or refuses: values stay right, and no session is lost.

Hosts are network name spaces joined by a link; what happens to it is done by the kernel's packet filter, so that TCP
itself repeats what was lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from dynamo_genie.bench.network.hosts import Network
from dynamo_genie.bench.network.namespaces import run
from dynamo_genie.bench.network.opening import TOOLS, open_network
from dynamo_genie.bench.network.spec import parse_network
from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, RealDaemon, environment
from tests.integration.working_client import Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CLIENT, SERVER = "client", "server"
CLIENTS = 4

NOTICED_S = 2.5
"""How long after the end of a hole an answer may be on its way."""

UNDER_WAY_S = 0.3
"""How long after the beginning of a hole an answer may still be taken that came before it."""


@dataclass
class Hole:
    """A time in which nothing came through."""

    began: float = 0.0
    ended: float = 0.0


@dataclass
class Net:
    """A daemon with keys on one host, and clients at work on another."""

    network: Network
    clients: list[subprocess.Popen[str]] = field(default_factory=list)

    def filter(self, action: str, *rule: str, at: Sequence[str] = (CLIENT, SERVER)) -> None:
        """Change what these ends of the link let in."""
        for host in at:
            run(*self.network.command(host, ["iptables", "-w", action, "INPUT", "-i", "to-+", *rule]))

    @contextlib.contextmanager
    def filtered(self, *rule: str, at: Sequence[str] = (CLIENT, SERVER)) -> Iterator[Hole]:
        """Have a rule at these ends meanwhile."""
        hole = Hole()
        self.filter("-I", *rule, at=at)
        hole.began = time.monotonic()
        try:
            yield hole
        finally:
            self.filter("-D", *rule, at=at)
            hole.ended = time.monotonic()

    def dropped(self) -> int:
        """How many packets the rules that are in force have dropped."""
        listed = run(*self.network.command(CLIENT, ["iptables", "-w", "-nvxL", "INPUT"]))
        return sum(int(found[1]) for found in re.finditer(r"^\s*(\d+)\s+\d+\s+DROP", listed, re.MULTILINE))

    def reports(self) -> list[Report]:
        """What each client did since it was asked last."""
        for client in self.clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        return [self.report(client) for client in self.clients]

    def report(self, client: subprocess.Popen[str], limit_s: float = LIMIT_S) -> Report:
        """Wait for the report of one client."""
        assert client.stdout is not None
        assert client.stderr is not None
        assert select.select([client.stdout], [], [], limit_s)[0], "a client does not answer any more"
        line = client.stdout.readline()
        assert line, client.stderr.read()[-3000:]
        return msgspec.json.decode(line, type=Report)


class DaemonOnHost(RealDaemon):
    """A daemon in a name space."""

    def __init__(self, network: Network, keys: Path) -> None:
        self._network = network
        super().__init__(keys=keys)

    def _start(self) -> None:
        self._command = self._network.command(SERVER, self._command)
        super()._start()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("network name spaces need Linux and root")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"there is no {', '.join(missing)}")
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(open_network(parse_network("1gbit"), [CLIENT, SERVER]))
            Net(network).filter("-A", "-m", "statistic", "--mode", "random", "--probability", "0", "-j", "DROP")
        except GenieError as error:
            pytest.skip(f"no network can be made here: {error}")
        yield network


@pytest.fixture(scope="module")
def net(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    keys = tmp_path_factory.mktemp("keys")
    key_file = create_client_keys(create_server_keys(keys), "one")
    net = Net(network)
    with DaemonOnHost(network, keys) as daemon:
        endpoint = f"tcp://{network.address(SERVER)}:{daemon.endpoint.rpartition(':')[2]}"
        command = [sys.executable, "-m", "tests.integration.working_client", endpoint, str(key_file)]
        try:
            for _ in range(CLIENTS):
                net.clients.append(
                    subprocess.Popen(
                        network.command(CLIENT, command),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                        env=environment(),
                        cwd=REPOSITORY,
                    )
                )
            for client in net.clients:
                net.report(client, 2 * LIMIT_S)  # it has begun
            yield net
        finally:
            for client in net.clients:
                client.kill()
                client.communicate()


@pytest.fixture(autouse=True)
def nothing_from_before(net: Net) -> None:
    net.reports()


def check(reports: Sequence[Report], holes: Sequence[Hole] = ()) -> None:
    """Nothing was wrong, no session was lost, and each hole was noticed soon after its end."""
    for report in reports:
        assert report.wrong == []
        assert report.rounds > 0
        assert (report.sessions, report.recoveries) == (1, 0)
        for hole in holes:
            inside = [when for when in report.answers if hole.began + UNDER_WAY_S < when < hole.ended]
            assert inside == [], "something came through the hole"
    for hole in holes:
        late = [min(when for when in report.answers if when >= hole.ended) - hole.ended for report in reports]
        print(f"hole of {hole.ended - hole.began:.1f} s: answers came {', '.join(f'{s:.2f}' for s in late)} s after it")
        assert max(late) <= NOTICED_S


@pytest.mark.parametrize(
    ("length_s", "every_s", "times"),
    [
        pytest.param(2.0, 6.0, 3, id="2 s"),
        pytest.param(5.0, 9.0, 3, id="5 s"),
        pytest.param(2.0, 10.0, 6, id="2 s for a minute", marks=pytest.mark.sweep),
        pytest.param(5.0, 9.0, 10, id="5 s often", marks=pytest.mark.sweep),
        pytest.param(15.0, 20.0, 2, id="15 s", marks=pytest.mark.sweep),
    ],
)
def test_a_hole_costs_its_own_time_and_nothing_else(net: Net, length_s: float, every_s: float, times: int) -> None:
    holes = []
    for _ in range(times):
        with net.filtered("-j", "DROP") as hole:
            time.sleep(length_s)  # the hole itself
        holes.append(hole)
        time.sleep(every_s - length_s)  # to the next one
    check(net.reports(), holes)


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_packets_that_are_lost_are_only_late(net: Net, loss: float) -> None:
    with net.filtered("-m", "statistic", "--mode", "random", "--probability", str(loss), "-j", "DROP"):
        time.sleep(15.0)  # what packets there are
        assert net.dropped() > 10
        reports = net.reports()
    check(reports)


@pytest.mark.parametrize("refuses", [SERVER, CLIENT])
def test_a_connection_that_one_end_is_told_to_forget_is_replaced(net: Net, refuses: str) -> None:
    """What one end refuses resets the other, which alone hears of it."""
    holes = []
    before = [report.reconnects for report in net.reports()]
    for _ in range(3):
        with net.filtered("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset", at=[refuses]) as hole:
            time.sleep(1.0)  # as long as it refuses
        holes.append(hole)
        time.sleep(3.0)  # to the next time
    reports = net.reports()
    check(reports, holes)
    assert all(report.reconnects > past for report, past in zip(reports, before, strict=True))
