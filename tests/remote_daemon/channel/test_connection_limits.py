"""Strangers cannot use up the descriptors, and a client not the connections of others."""

from __future__ import annotations

import threading

import zmq

from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.connection_limits import ConnectionLimits, Crowd
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from tests.remote_daemon.channel.raw_peer import RawPeer


def test_the_oldest_of_an_address_that_proved_nothing_goes_when_there_are_too_many() -> None:
    crowd = Crowd(ConnectionLimits(unproven_per_address=2, per_client=9, total=9))
    for descriptor, host in ((1, "a"), (2, "a"), (3, "b")):
        crowd.came(host, descriptor)
    assert crowd.proved("a", 1, "alice") == ""
    crowd.came("a", 4)
    assert crowd.surplus("a") is None
    crowd.came("a", 5)
    assert crowd.surplus("b") is None
    surplus = crowd.surplus("a")
    assert surplus is not None
    assert surplus[0] == 2
    crowd.left("a", 2, None)
    assert crowd.surplus("a") is None


def test_a_client_may_have_so_many_from_anywhere() -> None:
    crowd = Crowd(ConnectionLimits(unproven_per_address=9, per_client=2, total=9))
    for number, host in enumerate("abc"):
        crowd.came(host, number)
    assert [bool(crowd.proved(host, number, "alice")) for number, host in enumerate("abc")] == [False, False, True]
    crowd.left("c", 2, "alice")
    crowd.left("b", 1, "alice")
    crowd.came("d", 4)
    assert not crowd.proved("d", 4, "alice")


def test_when_all_are_too_many_the_most_crowded_address_loses_one() -> None:
    crowd = Crowd(ConnectionLimits(unproven_per_address=9, per_client=9, total=4))
    for number, host in enumerate("aabb"):
        crowd.came(host, number)
        assert crowd.surplus(host) is None
    crowd.proved("b", 2, "alice")
    crowd.came("c", 9)
    surplus = crowd.surplus("c")
    assert surplus is not None
    assert surplus[0] == 0


def test_a_connection_may_prove_itself_before_the_guard_knows_of_it() -> None:
    known = threading.Event()

    class Late(ConnectionGuard):
        def _accepted(self, descriptor: int) -> None:
            assert known.wait(10)
            super()._accepted(descriptor)

    with zmq.Context() as context:
        socket, endpoint = bind_router(context, "tcp://127.0.0.1:*", max_frame_nbytes=1 << 20, curve=None)
        socket.rcvtimeo = 10_000
        guard = Late(socket, "test", 64 << 10, ConnectionLimits(unproven_per_address=3, per_client=4, total=100))
        reader = MessageReader(socket, guard)
        try:
            first = RawPeer(endpoint)
            first.send(b"hello")
            guard.prove(reader.receive().frame, "")
            known.set()
            surplus = [RawPeer.connect(endpoint) for _ in range(10)]
            assert all(peer.is_cut for peer in surplus[:-3])
            first.send(b"still here")
            assert bytes(reader.receive().frame) == b"still here"
            for peer in (first, *surplus):
                peer.close()
        finally:
            guard.close()
            socket.close(linger=0)


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
            assert all(peer.is_cut for peer in [*silent, *surplus[:-3]])
            first.send(b"still here")
            assert bytes(reader.receive().frame) == b"still here"
            for peer in (first, *silent, *surplus):
                peer.close()
        finally:
            guard.close()
            socket.close(linger=0)
