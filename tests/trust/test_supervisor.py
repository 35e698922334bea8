"""What one client, or a stranger, does to the endpoint costs nobody else a session, and never the supervisor."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.admission import Admission, request_status
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from tests.remote_daemon.channel.raw_peer import RawPeer, frame
from tests.remote_daemon.fixtures import LIMIT_S, DaemonProcess, is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MIB = 1 << 20
MAX_SUPERVISOR_NBYTES = 160 * MIB
"""About 40 MiB of Python, and what arrives on a fast connection before it is looked at."""

PROMPTLY_S = 3.0


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., DaemonProcess]]:
    started: list[DaemonProcess] = []

    def start(behaviour: str = "", **arguments: str) -> DaemonProcess:
        started.append(DaemonProcess(behaviour, **arguments))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()


def resident_nbytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Peak:
    """The most memory that a process had while the block ran."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.nbytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            with contextlib.suppress(OSError):
                self.nbytes = max(self.nbytes, resident_nbytes(self._pid))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.parametrize(
    "attack",
    [frame(bytes(MIB), more=True), frame(b"", more=True) * 100_000, frame(b"x" * 20) * 10_000],
    ids=["large frames of one message", "empty frames of one message", "small messages"],
)
def test_endless_sending_costs_its_sender_alone(start_daemon: Callable[..., DaemonProcess], attack: bytes) -> None:
    daemon = start_daemon()
    endpoint = daemon.wait_ready()
    lost: list[Exception] = []
    with Admission.open(endpoint, keys=None, connect_timeout_s=LIMIT_S, on_lost=lost.append), Peak(daemon.pid) as peak:
        for _ in range(3):
            peer = RawPeer(endpoint)
            sent = peer.send_until_cut(attack, most_nbytes=2 << 30)
            started = time.monotonic()
            request_status(endpoint, None, LIMIT_S)
            assert time.monotonic() - started < PROMPTLY_S
            assert sent < 2 << 30
            peer.close()
    assert peak.nbytes < MAX_SUPERVISOR_NBYTES
    assert lost == []


def test_a_message_of_three_million_frames_keeps_nobody_waiting(start_daemon: Callable[..., DaemonProcess]) -> None:
    endpoint = start_daemon().wait_ready()
    with zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.connect(endpoint)
        dealer.send_multipart([b""] * 3_000_000)
        slowest, deadline = 0.0, time.monotonic() + 6.0
        while (started := time.monotonic()) < deadline:
            request_status(endpoint, None, LIMIT_S)
            slowest = max(slowest, time.monotonic() - started)
        dealer.close(linger=0)
    assert slowest < PROMPTLY_S


@pytest.mark.parametrize("heartbeats", [False, True], ids=["without PINGs", "with PINGs"])
def test_a_flood_and_a_disconnect_end_nobody(start_daemon: Callable[..., DaemonProcess], heartbeats: bool) -> None:
    daemon = start_daemon("mute")
    endpoint = daemon.wait_ready()
    lost: list[Exception] = []
    with Admission.open(endpoint, keys=None, connect_timeout_s=LIMIT_S, on_lost=lost.append):
        for _ in range(4):
            _flood_and_leave(endpoint, heartbeats=heartbeats)
            assert request_status(endpoint, None, LIMIT_S).pid == daemon.pid
    assert is_running(daemon.pid)
    assert lost == []


def _flood_and_leave(endpoint: str, *, heartbeats: bool) -> None:
    """Send for a second what makes the supervisor work, read no answer, and go."""
    with zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.SNDHWM, 0)
        if heartbeats:
            dealer.setsockopt(zmq.HEARTBEAT_IVL, 10)
        dealer.connect(endpoint)
        request = codec.encode(m.StatusRequest(1))
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            for _ in range(100):
                dealer.send(request)
        dealer.close(linger=0)


def test_strangers_that_fill_the_descriptors_end_nothing(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    server = create_server_keys(tmp_path)
    alice = load_client_keys(create_client_keys(server, "alice"))
    daemon = start_daemon(keys=str(tmp_path), nofile="1024")
    endpoint = daemon.wait_ready()
    lost: list[Exception] = []
    with (
        Strangers(endpoint, 1_100),
        Admission.open(endpoint, keys=alice, connect_timeout_s=LIMIT_S, on_lost=lost.append),
    ):
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            request_status(endpoint, alice, LIMIT_S)
    assert request_status(endpoint, alice, LIMIT_S).pid == daemon.pid
    assert lost == []


class Strangers:
    """Connections without a key that say nothing, opened again whenever they are cut, for as long as the block runs."""

    def __init__(self, endpoint: str, count: int) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self._address = host, int(port)
        self._count = count
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(count // 4,)) for _ in range(4)]

    def _keep(self, count: int) -> None:
        open_now: list[socket.socket] = []
        while not self._done.wait(0.001):
            try:
                open_now.append(socket.create_connection(self._address, timeout=1))
            except OSError:
                continue
            if len(open_now) > count:
                open_now.pop(0).close()
        for connection in open_now:
            connection.close()

    def __enter__(self) -> Strangers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
