"""What a connection may send without being read is bounded, whatever shape it has, and who is read is never cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import zmq

from dynamo_genie.remote_daemon.channel.auth import Authenticator
from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader
from dynamo_genie.remote_daemon.channel.pending_bytes import PeerConnection, on_the_wire
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from dynamo_genie.runtime.wire.key_file import ServerKeyPair
from tests.remote_daemon.channel.raw_peer import RawPeer, frame

LIMIT_NBYTES = 64 << 10
MOST_NBYTES = 4 << 30
"""Far more than any of these peers sends before it is cut."""


def test_a_frame_on_the_wire_has_flags_and_a_size_and_with_keys_a_seal() -> None:
    assert [on_the_wire(n, curve=False) for n in (0, 255, 256, 1 << 20)] == [2, 257, 265, (1 << 20) + 9]
    assert [on_the_wire(n, curve=True) for n in (0, 222, 223)] == [35, 257, 265]


def test_pending_is_what_came_less_what_was_read() -> None:
    connection = PeerConnection(descriptor=5, inode=1, address="h:1")
    assert connection.account(received=1000, delivered=0) and connection.pending == 1000
    assert not connection.account(received=1000, delivered=640) and connection.pending == 350  # 10 are forgiven
    assert connection.account(received=1001, delivered=1000) and connection.pending == 0


def test_what_is_forgiven_is_never_saved_up() -> None:
    connection = PeerConnection(descriptor=5, inode=1, address="h:1")
    for total in range(10_000, 10_000_001, 10_000):
        connection.account(received=total, delivered=total)
    connection.account(received=10_050_000, delivered=10_000_000)
    assert connection.pending == 50_000


class Server:
    """A guarded socket and its reader."""

    def __init__(self, context: zmq.Context, curve: ServerKeyPair | None = None) -> None:
        self.socket, self.endpoint = bind_router(
            context, "tcp://127.0.0.1:*", max_frame_nbytes=1 << 20, curve=curve, zap_domain=b"genie"
        )
        self.socket.rcvtimeo = 10_000
        self.guard = ConnectionGuard(self.socket, "test", LIMIT_NBYTES)
        self.reader = MessageReader(self.socket, self.guard)

    def close(self) -> None:
        self.guard.close()
        self.socket.close(linger=0)


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as context:
        yield context


@pytest.fixture
def server(context: zmq.Context) -> Iterator[Server]:
    server = Server(context)
    yield server
    server.close()


@pytest.mark.parametrize(
    "endless",
    [frame(bytes(1 << 20), more=True), frame(b"", more=True) * 10_000, frame(b"x") * 10_000],
    ids=["large frames of one message", "empty frames of one message", "small messages"],
)
def test_who_sends_without_end_is_cut_while_nobody_reads(
    context: zmq.Context, endless: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(context)
    peer = RawPeer(server.endpoint)
    with caplog.at_level(logging.WARNING):
        assert LIMIT_NBYTES < peer.send_until_cut(endless, MOST_NBYTES) < MOST_NBYTES
        assert peer.is_cut
        server.close()
    assert "it sent more than 64 KiB that were not read yet, and was cut" in caplog.text
    peer.close()


def test_an_incomplete_message_of_who_was_cut_is_never_delivered_and_others_are_served(server: Server) -> None:
    hostile, honest = RawPeer(server.endpoint), RawPeer(server.endpoint)
    hostile.send(b"complete")
    hostile.send_until_cut(frame(bytes(1 << 20), more=True), MOST_NBYTES)
    assert hostile.is_cut
    honest.send(b"hello")
    received = {bytes(server.reader.receive().frame) for _ in range(2)}
    assert received == {b"complete", b"hello"}
    hostile.close()
    later = RawPeer(server.endpoint)  # most likely with the descriptor of the one that was cut
    later.send(b"again")
    assert bytes(server.reader.receive().frame) == b"again"
    later.close()
    honest.close()


def test_surplus_frames_are_counted_and_dropped(server: Server) -> None:
    peer = RawPeer(server.endpoint)
    for _ in range(4):
        peer.send(b"x", more=True)
    peer.send(b"last")
    peer.send(b"one frame")
    first, second = server.reader.receive(), server.reader.receive()
    assert (bytes(first.frame), first.surplus) == (b"x", 4)
    assert (bytes(second.frame), second.surplus) == (b"one frame", 0)
    assert first.peer == second.peer
    peer.close()


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
def test_who_is_read_may_send_many_times_the_limit(context: zmq.Context, keyed: bool) -> None:
    pair = ServerKeyPair(*(key.decode() for key in zmq.curve_keypair())) if keyed else None
    public, secret = zmq.curve_keypair()
    authenticator = Authenticator(context, lambda: {public.decode()}) if keyed else None
    server = Server(context, pair)
    dealer = context.socket(zmq.DEALER)
    if pair is not None:
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = pair.public.encode(), public, secret
    dealer.connect(server.endpoint)
    sizes = [0, 1, 200, 223, 255, 256, 5_000, 20_000] * 400  # 10 MiB, half the limit at a time
    for start in range(0, len(sizes), 8):
        for size in sizes[start : start + 8]:
            dealer.send(bytes(size))
        assert [len(server.reader.receive().frame) for _ in range(8)] == sizes[start : start + 8]
    assert sum(sizes) > 100 * LIMIT_NBYTES
    dealer.close(linger=0)
    server.close()
    if authenticator is not None:
        authenticator.close()


def test_many_connections_come_and_go_and_leave_nothing_behind(server: Server) -> None:
    for number in range(200):
        peer = RawPeer(server.endpoint)
        peer.send(b"%d" % number)
        assert bytes(server.reader.receive().frame) == b"%d" % number
        peer.close()
    last = RawPeer(server.endpoint)
    last.send_until_cut(frame(bytes(1 << 20), more=True), MOST_NBYTES)
    assert last.is_cut  # its end is told after theirs
    last.close()
    assert len(server.guard._connections) <= 2
