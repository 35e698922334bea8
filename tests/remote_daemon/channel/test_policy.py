from __future__ import annotations

import pytest

from dynamo_genie.errors import AuthenticationError, OptionError
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, TcpAddress, parse_endpoint, require_keys_off_loopback


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://127.0.0.1:7777", TcpAddress("127.0.0.1", 7777)),
        ("tcp://127.0.0.1:*", TcpAddress("127.0.0.1", 0)),
        ("tcp://*:9", TcpAddress("0.0.0.0", 9)),
        ("tcp://[::1]:9", TcpAddress("[::1]", 9)),
        ("tcp://gpu-box.example:9", TcpAddress("gpu-box.example", 9)),
        ("ipc:///run/genie", IpcAddress("/run/genie")),
    ],
)
def test_endpoints_are_read(endpoint: str, address: TcpAddress | IpcAddress) -> None:
    assert parse_endpoint(endpoint) == address


@pytest.mark.parametrize(
    "endpoint",
    ["", "tcp://", "tcp://h", "tcp://h:x", "tcp://h:70000", "udp://h:1", "ipc://relative", "ipc:///" + "x" * 107],
)
def test_others_are_refused(endpoint: str) -> None:
    with pytest.raises(OptionError):
        parse_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///x"]
)
def test_loopback_and_ipc_need_no_keys(endpoint: str) -> None:
    require_keys_off_loopback(parse_endpoint(endpoint), has_keys=False)


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:*", "tcp://*:1", "tcp://10.0.0.5:1", "tcp://[::]:1", "tcp://gpu-box:1"]
)
def test_every_other_address_needs_keys(endpoint: str) -> None:
    with pytest.raises(AuthenticationError, match="genie keygen"):
        require_keys_off_loopback(parse_endpoint(endpoint), has_keys=False)
    require_keys_off_loopback(parse_endpoint(endpoint), has_keys=True)
