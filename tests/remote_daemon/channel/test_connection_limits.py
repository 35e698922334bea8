"""Strangers cannot use up the descriptors, and a client not the connections of others."""

from __future__ import annotations

import zmq

from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.connection_limits import ConnectionLimits, Crowd
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from tests.remote_daemon.channel.raw_peer import RawPeer


def test_an_address_may_have_so_many_connections_that_proved_nothing() -> None:
    crowd = Crowd(ConnectionLimits(unproven_per_address=2, per_client=9, total=9))
    assert [bool(crowd.came("a")) for _ in range(3)] == [False, False, True]
    assert not crowd.came("b")
    crowd.left("a", None)
    assert not crowd.proved("a", "alice")
    assert not crowd.came("a")


def test_a_client_may_have_so_many_from_anywhere_and_all_together_so_many() -> None:
    crowd = Crowd(ConnectionLimits(unproven_per_address=9, per_client=2, total=4))
    for host in "abc":
        assert not crowd.came(host)
    assert [bool(crowd.proved(host, "alice")) for host in "abc"] == [False, False, True]
    crowd.left("c", "alice")
    assert [bool(crowd.came("d")) for _ in range(3)] == [False, False, True]


def test_connections_over_the_limit_are_cut_and_those_before_them_serve_on() -> None:
    with zmq.Context() as context:
        socket, endpoint = bind_router(context, "tcp://127.0.0.1:*", max_frame_nbytes=1 << 20, curve=None)
        socket.rcvtimeo = 10_000
        limits = ConnectionLimits(unproven_per_address=3, per_client=4, total=100)
        guard = ConnectionGuard(socket, "test", 64 << 10, limits)
        reader = MessageReader(socket, guard)
        try:
            first = RawPeer(endpoint)
            first.send(b"hello")
            received = reader.receive()
            guard.prove(received.frame, "")
            first.send(b"again")
            assert bytes(reader.receive().frame) == b"again"
            silent = [RawPeer(endpoint) for _ in range(2)]
            surplus = [RawPeer.connect(endpoint) for _ in range(10)]
            assert sum(peer.is_cut for peer in surplus) >= 9
            first.send(b"still here")
            assert bytes(reader.receive().frame) == b"still here"
            for peer in (first, *silent, *surplus):
                peer.close()
        finally:
            guard.close()
            socket.close(linger=0)
