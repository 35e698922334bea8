"""Leases are found by what asked for them, counted by tenant and device, and end in the order of their last renewal."""

from __future__ import annotations

from dynamo_genie.remote_daemon.supervisor.leases import Leases
from dynamo_genie.runtime.wire import messages as m

DEVICE = m.DeviceInfo("cpu", "cpu", 1, "2")


def welcome(session: bytes, request_id: int = 1) -> m.Welcome:
    return m.Welcome(request_id, 5, session, b"t" * 32, "c", "b", DEVICE, 1.0, 10.0)


def granted(*sessions: bytes) -> Leases:
    leases = Leases(10.0)
    for at, session in enumerate(sessions):
        leases.grant(welcome(session), "tenant", 0, "client", b"peer of " + session, float(at))
    return leases


def test_they_end_in_the_order_of_their_last_renewal() -> None:
    leases = granted(b"a", b"b", b"c")
    assert leases.next_expiry() == 10.0
    assert leases.renew(b"a", "tenant", b"peer of a", 5.0)
    assert leases.next_expiry() == 11.0
    assert [lease.session for lease in leases.end_expired(12.0)] == [b"b", b"c"]
    assert leases.next_expiry() == 15.0
    assert [lease.session for lease in leases.end_expired(100.0)] == [b"a"]
    assert leases.next_expiry() is None


def test_each_is_counted_until_it_ends() -> None:
    leases = granted(b"a", b"b")
    leases.grant(welcome(b"d"), "tenant", 1, "client", b"p", 0.0)
    leases.grant(welcome(b"e"), "other", 0, "client", b"q", 0.0)
    assert [leases.count(*place) for place in (("tenant", 0), ("tenant", 1), ("other", 0), ("none", 0))] == [2, 1, 1, 0]
    assert leases.end(b"a", "other") is None
    assert leases.end(b"a", "tenant") is not None
    assert leases.count("tenant", 0) == 1
    assert [lease.session for lease in leases.end_all("tenant", 0)] == [b"b"]
    assert leases.count("tenant", 0) == 0
    assert leases.count("tenant", 1) == 1


def test_a_request_finds_its_lease_wherever_the_client_is_heard_from_now_and_none_that_ended() -> None:
    leases = granted(b"a")
    leases.renew(b"a", "tenant", b"elsewhere", 1.0)
    found = leases.granted(b"peer of a", 1)
    assert found is not None and found.session == b"a"
    assert leases.granted(b"peer of a", 2) is None
    leases.grant(welcome(b"b"), "tenant", 0, "client", b"peer of a", 2.0)
    leases.end(b"a", "tenant")
    found = leases.granted(b"peer of a", 1)
    assert found is not None and found.session == b"b"
    leases.end(b"b", "tenant")
    assert leases.granted(b"peer of a", 1) is None
