from __future__ import annotations

import pytest
import zmq

from dynamo_genie.errors import OptionError
from dynamo_genie.runtime.connect.dealer import connect_dealer, reached_through


@pytest.mark.parametrize("endpoint", ["", "localhost:1", "tcp://h", "tcp://h:*", "tcp://*:1", "http://h:1", "ipc://x"])
def test_what_cannot_be_dialled_is_named(endpoint: str) -> None:
    with zmq.Context() as context, pytest.raises(OptionError, match=r"tcp://HOST:PORT"):
        connect_dealer(context, endpoint, keys=None, max_frame_nbytes=1024)


def test_no_wait_on_a_client_socket_is_unbounded() -> None:
    with zmq.Context() as context:
        dealer = connect_dealer(context, "tcp://127.0.0.1:1", keys=None, max_frame_nbytes=1024, timeout_ms=50)
        with pytest.raises(zmq.Again):
            dealer.recv()
        options = (zmq.LINGER, zmq.HEARTBEAT_IVL, zmq.TCP_KEEPALIVE, zmq.HANDSHAKE_IVL, zmq.MAXMSGSIZE)
        assert [dealer.getsockopt(option) for option in options] == [0, 0, 1, 2000, 1024]
        dealer.close()


@pytest.mark.parametrize(
    ("endpoint", "dialled", "reached"),
    [
        ("tcp://0.0.0.0:5", "tcp://gpu-box:7777", "tcp://gpu-box:5"),
        ("tcp://10.0.0.5:5", "tcp://localhost:7777", "tcp://localhost:5"),
        ("tcp://[::]:5", "tcp://[fd00::2]:7777", "tcp://[fd00::2]:5"),
        ("ipc:///run/x.1c", "ipc:///run/x", "ipc:///run/x.1c"),
    ],
)
def test_a_worker_is_reached_through_the_host_of_its_daemon(endpoint: str, dialled: str, reached: str) -> None:
    assert reached_through(endpoint, dialled) == reached
