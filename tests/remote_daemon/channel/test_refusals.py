"""Whoever is refused is in the daemon's log, with address and reason, and a flood of them does not fill it."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from pathlib import Path

import pytest
import zmq

from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.channel.refusals import MAX_KINDS, QUIET_S, RefusalLog
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.admission import request_status
from dynamo_genie.runtime.connect.keys import load_client_keys
from tests.remote_daemon.fixtures import DaemonProcess


def test_one_line_for_each_place_and_reason_and_then_how_many_more(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = RefusalLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for port in range(500):
            log.note(f"10.0.0.1:{port}", "this key is not admitted", f" (KEY{port})")
        log.note("10.0.0.2:1", "this key is not admitted")
        log.note("", "ProtocolError", ": bad\x1b[31m\nline")
        now = QUIET_S
        log.note("10.0.0.1:9", "this key is not admitted")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a client at 10.0.0.1:0: this key is not admitted (KEY0)",
        "refused a client at 10.0.0.2:1: this key is not admitted",
        "refused a client at an unknown address: ProtocolError: bad?[31m?line",
        "refused a client at 10.0.0.1:9: this key is not admitted (499 more like it since the last such line)",
    ]


def test_what_is_remembered_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog(lambda: 0.0)
    with caplog.at_level(logging.CRITICAL):
        for host in range(2 * MAX_KINDS + 5):
            log.note(f"host-{host}:1", "why")
    assert len(log._seen) <= MAX_KINDS


def test_the_daemon_logs_wrong_keys_no_keys_garbage_and_bad_messages(tmp_path: Path) -> None:
    server = create_server_keys(tmp_path / "keys")
    create_client_keys(server, "alice")
    stranger = create_server_keys(tmp_path / "others")
    foreign = load_client_keys(str(create_client_keys(stranger, "mallory")))
    mallory = type(foreign)(foreign.public, foreign.secret, server.pair.public)
    daemon = DaemonProcess(listen="tcp://127.0.0.1:*", keys=str(tmp_path / "keys"))
    try:
        endpoint = daemon.wait_ready()
        for keys in (mallory, None):
            with pytest.raises(GenieError):
                request_status(endpoint, keys, 0.7)
        with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2]))) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            peer.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while peer.recv(4096):
                    time.sleep(0.01)
        _say_nonsense(endpoint, load_client_keys(str(tmp_path / "keys" / "alice.key")))
        time.sleep(0.3)
    finally:
        daemon.process.terminate()
    _, _, log = daemon.wait_exit()
    lines = [line.partition("refused a client at ")[2] for line in log.splitlines() if "refused a client at " in line]
    assert all(line.startswith(("127.0.0.1", "an unknown address: its handshake")) for line in lines), log
    broke = "its handshake broke the protocol: one side has keys, the other has none"
    failed = "its handshake failed: it spoke no ZeroMQ, or stopped speaking"
    key = f"this key is not admitted ({mallory.public[:8]}...)"
    found = {reason: [line for line in lines if reason in line] for reason in (key, broke, failed, "ProtocolError: ")}
    assert found[key] and found["ProtocolError: "], log
    assert found[broke] or found[failed], log  # a client that sees first that keys are missing stops speaking
    for same in found.values():  # once for each host
        assert len(same) == len({line.partition(":")[0] for line in same}), log


def _say_nonsense(endpoint: str, keys: object) -> None:
    from dynamo_genie.runtime.connect.dealer import connect_dealer
    from dynamo_genie.runtime.wire.key_file import ClientKeys

    assert isinstance(keys, ClientKeys)
    with zmq.Context() as context:
        dealer = connect_dealer(context, endpoint, keys=keys, max_frame_nbytes=1 << 20)
        dealer.send(b"\xc1")
        assert dealer.poll(10_000)
        dealer.close(linger=0)
