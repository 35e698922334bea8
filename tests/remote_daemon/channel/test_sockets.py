"""Server sockets against real peers: with the right key, the wrong one, none, and with garbage."""

from __future__ import annotations

import socket as raw_socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from dynamo_genie.errors import AuthenticationError, DaemonUnavailable
from dynamo_genie.remote_daemon.channel.auth import ZAP_DOMAIN, ZAP_ENDPOINT, Authenticator, verdict, verified_user
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from dynamo_genie.runtime.connect.dealer import connect_dealer
from dynamo_genie.runtime.wire.key_file import ClientKeys, ServerKeyPair

MAX_NBYTES = 1 << 16
ANSWER_MS = 10_000
SILENCE_MS = 700


def new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


SERVER = ServerKeyPair(*new_pair())
ALICE = ClientKeys(*new_pair(), SERVER.public)
MALLORY = ClientKeys(*new_pair(), SERVER.public)


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def far_context() -> Iterator[zmq.Context]:
    """The client's side: libzmq looks for an authenticator in the server's context only."""
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def arrives(
    router: zmq.Socket, context: zmq.Context, endpoint: str, keys: ClientKeys | None, wait_ms: int
) -> str | None:
    """Return the user behind a message that got through, None if none did."""
    dealer = connect_dealer(context, endpoint, keys=keys, max_frame_nbytes=MAX_NBYTES)
    dealer.send(b"hello")
    user = verified_user(router.recv_multipart(copy=False)[1]) if router.poll(wait_ms) else None
    dealer.close(linger=0)
    return user


def bind(context: zmq.Context, curve: ServerKeyPair | None) -> tuple[zmq.Socket, str]:
    return bind_router(context, "tcp://127.0.0.1:*", max_frame_nbytes=MAX_NBYTES, curve=curve)


def test_only_admitted_keys_get_in_and_the_user_is_the_proven_key(
    context: zmq.Context, far_context: zmq.Context
) -> None:
    with closing(Authenticator(context, lambda: {ALICE.public})):
        router, endpoint = bind(context, SERVER)
        assert arrives(router, far_context, endpoint, MALLORY, SILENCE_MS) is None
        assert arrives(router, far_context, endpoint, None, SILENCE_MS) is None
        wrong_server = ClientKeys(ALICE.public, ALICE.secret, MALLORY.public)
        assert arrives(router, far_context, endpoint, wrong_server, SILENCE_MS) is None
        assert arrives(router, far_context, endpoint, ALICE, ANSWER_MS) == ALICE.public


def test_a_key_can_be_admitted_and_locked_out_while_serving(context: zmq.Context, far_context: zmq.Context) -> None:
    admitted: set[str] = set()
    with closing(Authenticator(context, lambda: admitted)):
        router, endpoint = bind(context, SERVER)
        admitted.add(ALICE.public)
        assert arrives(router, far_context, endpoint, ALICE, ANSWER_MS) == ALICE.public
        admitted.clear()
        assert arrives(router, far_context, endpoint, ALICE, SILENCE_MS) is None


def test_nobody_gets_in_without_an_authenticator(context: zmq.Context, far_context: zmq.Context) -> None:
    router, endpoint = bind(context, SERVER)
    assert arrives(router, far_context, endpoint, ALICE, SILENCE_MS) is None


def broken_list() -> set[str]:
    raise RuntimeError("the list of admitted keys cannot be read")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_gets_in_once_the_authenticator_died(context: zmq.Context, far_context: zmq.Context) -> None:
    authenticator = Authenticator(context, broken_list)
    router, endpoint = bind(context, SERVER)
    assert authenticator.alive
    assert arrives(router, far_context, endpoint, ALICE, SILENCE_MS) is None
    assert not authenticator.alive
    assert arrives(router, far_context, endpoint, ALICE, SILENCE_MS) is None
    authenticator.close()


@pytest.mark.parametrize(
    ("changed", "value"), [(0, b"2.0"), (2, b"other"), (5, b"NULL"), (5, b"PLAIN"), (6, b"short"), (6, b"k" * 32)]
)
def test_every_other_question_is_answered_with_no(changed: int, value: bytes) -> None:
    request = [b"1.0", b"1", ZAP_DOMAIN, b"127.0.0.1", b"", b"CURVE", b"\0" * 32]
    public = "0" * 40
    assert verdict(request, lambda: {public})[0] == b"200"
    request[changed] = value
    assert verdict(request, lambda: {public})[0] in (b"400", b"500")
    assert verdict(request[:-1], lambda: {public})[0] == b"500"


def test_a_context_has_one_authenticator(context: zmq.Context) -> None:
    with closing(Authenticator(context, set)), pytest.raises(zmq.ZMQError):
        context.socket(zmq.REP).bind(ZAP_ENDPOINT)


def test_a_public_address_without_keys_is_refused_before_anything_is_bound(context: zmq.Context) -> None:
    with pytest.raises(AuthenticationError, match="other machines can reach it"):
        bind_router(context, "tcp://0.0.0.0:*", max_frame_nbytes=MAX_NBYTES, curve=None)


def test_ports_come_from_the_range_and_run_out(context: zmq.Context) -> None:
    first, endpoint = bind(context, None)
    port = int(endpoint.rpartition(":")[2])
    with pytest.raises(DaemonUnavailable, match=str(port)):
        bind_router(context, "tcp://127.0.0.1:*", ports=(port, port), max_frame_nbytes=MAX_NBYTES, curve=None)
    first.close(linger=0)


def test_an_ipc_socket_is_for_its_user_only_and_no_file_is_overwritten(context: zmq.Context, tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_router(context, f"ipc://{path}", max_frame_nbytes=MAX_NBYTES, curve=None)
    assert path.stat().st_mode & 0o077 == 0
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(DaemonUnavailable, match="is no socket"):
        bind_router(context, f"ipc://{precious}", max_frame_nbytes=MAX_NBYTES, curve=None)
    assert precious.read_text() == "data"


def test_a_frame_above_the_limit_cuts_its_sender_off(context: zmq.Context, far_context: zmq.Context) -> None:
    router, endpoint = bind(context, None)
    dealer = connect_dealer(far_context, endpoint, keys=None, max_frame_nbytes=1 << 30)
    dealer.send(b"x" * (MAX_NBYTES + 1))
    assert not router.poll(SILENCE_MS)
    dealer.close(linger=0)
    assert arrives(router, far_context, endpoint, None, ANSWER_MS) == ""


def ends(peer: raw_socket.socket) -> bool:
    """Whether the other side hangs up before the socket's time-out."""
    try:
        while peer.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_a_raw_peer_that_announces_an_enormous_frame_is_cut_off(context: zmq.Context) -> None:
    _, endpoint = bind(context, None)
    port = int(endpoint.rpartition(":")[2])
    greeting = b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    ready = b"\x04" + bytes([len(ready)]) + ready
    with raw_socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(greeting + ready + b"\x02" + (1 << 40).to_bytes(8, "big") + b"x" * 1000)
        assert ends(peer)
