"""Networks of namespaces: reached, counted, delayed, intact, and gone afterwards. Needs root."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

from dynamo_genie.bench.network import InterfaceCounters, Network, open_network, parse_network
from dynamo_genie.bench.network.namespaces import existing, name_of, pids_in
from dynamo_genie.child_process import first_line
from dynamo_genie.errors import OptionError
from tests.integration.real_daemon import environment, eventually

LIMIT_S = 60.0
HOSTS = ("client", "daemon0", "daemon1")
ECHO = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print("ready", listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            data = b""
            while piece := connection.recv(1 << 20):
                data += piece
            connection.sendall(data[::-1])
"""
ASK = """
import hashlib, random, socket, sys
data = random.Random(0).randbytes(int(sys.argv[3]))
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    while piece := connection.recv(1 << 20):
        answer += piece
print(hashlib.sha256(data).hexdigest(), hashlib.sha256(answer[::-1]).hexdigest())
"""
ECHO_TO_ALL = """
import socket, threading
def serve(connection):
    while piece := connection.recv(1 << 16):
        connection.sendall(piece)
with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
    print("ready", listener.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
ASK_AT_ONCE = """
import socket, sys
connections = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) for _ in range(int(sys.argv[3]))]
for number, connection in enumerate(connections):
    connection.sendall(bytes([number % 256]) * 70_000)
answered = 0
for number, connection in enumerate(connections):
    missing = 70_000
    while missing and (piece := connection.recv(1 << 16)):
        missing -= len(piece)
    answered += missing == 0
print(answered)
"""
COUNT = """
from dynamo_genie.bench.network import read_counters
counted = read_counters()
print(counted.sent_bytes, counted.received_bytes, counted.sent_packets, counted.received_packets)
"""
OWNER = """
import sys, time
from dynamo_genie.bench.network import open_network, parse_network
with open_network(parse_network("1ms"), ("client", "daemon0")) as net:
    import subprocess
    subprocess.Popen(net.command("daemon0", [sys.executable, "-c", "import time; time.sleep(600)"]))
    print("ready", flush=True)
    time.sleep(600)
"""


def _obstacle() -> str:
    if os.geteuid() != 0:
        return "SKIPPED, NOT ROOT: network namespaces were not tested"
    missing = [tool for tool in ("ip", "tc", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"SKIPPED, NO {', '.join(missing).upper()}: install iproute2 and iptables"
    made = subprocess.run(["ip", "netns", "add", f"genie-{os.getpid()}-try"], capture_output=True, check=False)
    if made.returncode:
        return f"SKIPPED: this system makes no network namespaces: {made.stderr.decode().strip()}"
    subprocess.run(["ip", "netns", "delete", f"genie-{os.getpid()}-try"], check=True)
    return ""


@pytest.fixture
def root() -> None:
    if obstacle := _obstacle():
        pytest.skip(obstacle)


def left() -> list[str]:
    """Namespaces of this process."""
    return [name for name in existing() if name.startswith(f"genie-{os.getpid()}-")]


def counted(net: Network, host: str) -> InterfaceCounters:
    """What a client of the study on this host would read."""
    done = subprocess.run(
        net.command(host, [sys.executable, "-c", COUNT]),
        capture_output=True, text=True, timeout=LIMIT_S, check=True, env=environment(),
    )  # fmt: skip
    return InterfaceCounters(*map(int, done.stdout.split()))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("text", ["200mbit", "2ms", "200mbit,1ms,0.2%"])
def test_hosts_reach_one_another_and_every_byte_is_counted_once(text: str) -> None:
    nbytes = 3_000_000
    with open_network(parse_network(text), HOSTS) as net:
        assert net.shape.obtained_round_trip_s is not None
        assert net.shape.obtained_round_trip_s >= 2 * (net.shape.delay_s or 0.0)
        for asking, serving in (("client", "daemon0"), ("daemon0", "daemon1")):
            server = subprocess.Popen(net.command(serving, [sys.executable, "-c", ECHO]), stdout=subprocess.PIPE)
            port = first_line(server, LIMIT_S).split()[1]
            before = counted(net, asking)
            asked = subprocess.run(
                net.command(asking, [sys.executable, "-c", ASK, net.address(serving), port, str(nbytes)]),
                capture_output=True, text=True, timeout=LIMIT_S, check=True,
            )  # fmt: skip
            after = counted(net, asking)
            server.kill()
            server.communicate()
            mine, theirs = asked.stdout.split()
            assert mine == theirs
            assert mine != hashlib.sha256(b"").hexdigest()
            moved = after - before
            resent = 0 if not net.shape.loss else nbytes * 0.05
            assert nbytes <= moved.sent_bytes <= nbytes * 1.06 + resent
            assert nbytes * 0.99 <= moved.received_bytes <= nbytes * 1.06 + resent
        with pytest.raises(OptionError, match="no host 'moon' in this network; there are client, daemon0, daemon1"):
            net.address("moon")
    assert left() == []


@pytest.mark.usefixtures("root")
def test_hundreds_of_connections_are_carried_at_once() -> None:
    """`select` takes descriptors below 1,024 only, and each connection has pipes as well."""
    with open_network(parse_network("1ms"), HOSTS[:2]) as net:
        server = subprocess.Popen(
            net.command("daemon0", [sys.executable, "-c", ECHO_TO_ALL]), stdout=subprocess.PIPE, env=environment()
        )
        try:
            port = first_line(server, LIMIT_S).split()[1]
            ask = [sys.executable, "-c", ASK_AT_ONCE, net.address("daemon0"), port, "300"]
            done = subprocess.run(
                net.command("client", ask), capture_output=True, text=True, timeout=LIMIT_S, check=True
            )
        finally:
            server.kill()
            server.communicate()
    assert int(done.stdout) == 300


@pytest.mark.usefixtures("root")
def test_nothing_is_left_after_an_error() -> None:
    def fail() -> None:
        with open_network(parse_network("1ms"), HOSTS):
            assert len(left()) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert left() == []


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_after_the_owner_is_killed(number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    )
    try:
        assert first_line(owner, LIMIT_S) == "ready"
        names = [name_of(owner.pid, host) for host in ("client", "daemon0")]
        assert set(names) <= set(existing())
        inside = [pid for name in names for pid in pids_in(name)]
        assert len(inside) >= 2  # the relays, and what the owner started
        owner.send_signal(number)
        owner.wait(LIMIT_S)
        assert eventually(lambda: not set(names) & set(existing()))
        assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in inside))
    finally:
        owner.kill()
        owner.communicate()


def test_loopback_says_that_nothing_is_shaped() -> None:
    with open_network(parse_network("loopback"), HOSTS) as net:
        assert "not shaped" in net.shape.note
        assert net.address("daemon1") == "127.0.0.1"
        assert net.command("client", ["ls"]) == ["ls"]
        assert net.namespaces == {}


def test_without_root_it_is_loopback_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with open_network(parse_network("10gbit"), HOSTS) as net:
        assert "NOT SHAPED" in net.shape.note
        assert "root" in net.shape.note
        assert net.shape.rate_bits_s == 10e9
