"""Who may send tensors to a session: the worker with the token and the key that its client named, once."""

from __future__ import annotations

import pytest
from zmq.utils import z85

from dynamo_genie.errors import ProtocolError, QuotaExceeded, VersionMismatch
from dynamo_genie.remote_daemon.channel.auth import BULK_ZAP_DOMAIN, ZAP_DOMAIN, verdict
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.inbound_links import MAX_LINKS, InboundLinks
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.version import PROTOCOLS

SESSION = b"s" * 16
KEY = z85.encode(b"k" * 32).decode()


def arrivals() -> Arrivals:
    return Arrivals(Staging(MemoryBudget(1000)), PeerTraffic(), lambda: None)


def token(number: int = 0) -> bytes:
    return number.to_bytes(32, "big")


def mailbox(link: int = 1, secret: bytes = token(), key: str = "") -> m.AdmitPeer:
    return m.AdmitPeer(9, link, secret, key, "tcp://a:1", "tcp://b:2")


def attachment(secret: bytes = token(), protocol: int = PROTOCOLS[-1]) -> m.AttachPeer:
    return m.AttachPeer(3, secret, protocol)


def test_a_link_opens_with_its_token_once() -> None:
    links = InboundLinks()
    links.admit(SESSION, arrivals(), mailbox())
    assert links.attach(b"i", "", attachment()) == m.Attached(3)
    found = links.of(b"i")
    assert found is not None
    assert found.number == 1
    with pytest.raises(ProtocolError, match="did so already"):
        links.attach(b"j", "", attachment())


def test_a_stranger_is_refused() -> None:
    links = InboundLinks()
    with pytest.raises(ProtocolError, match="opens no link"):
        links.attach(b"i", "", attachment())
    assert links.admit(SESSION, arrivals(), mailbox()) == m.Attached(9)
    with pytest.raises(ProtocolError, match="opens no link"):
        links.attach(b"i", "", attachment(token(1)))


@pytest.mark.parametrize("user", ["", "another key", KEY[::-1]])
def test_the_token_is_worth_nothing_with_another_key(user: str) -> None:
    links = InboundLinks()
    links.admit(SESSION, arrivals(), mailbox(key=KEY))
    with pytest.raises(ProtocolError):
        links.attach(b"i", user, attachment())
    assert links.attach(b"i", KEY, attachment()) == m.Attached(3)


def test_another_protocol_is_refused_by_name() -> None:
    links = InboundLinks()
    links.admit(SESSION, arrivals(), mailbox())
    with pytest.raises(VersionMismatch, match="99"):
        links.attach(b"i", "", attachment(protocol=99))


def test_numbers_tokens_and_their_count_are_checked() -> None:
    links = InboundLinks()
    links.admit(SESSION, arrivals(), mailbox())
    for wrong in (mailbox(1, token(1)), mailbox(2, token())):
        with pytest.raises(ProtocolError):
            links.admit(SESSION, arrivals(), wrong)
    for number in range(2, MAX_LINKS + 1):
        links.admit(SESSION, arrivals(), mailbox(number, token(number)))
    with pytest.raises(QuotaExceeded):
        links.admit(SESSION, arrivals(), mailbox(MAX_LINKS + 1, token(MAX_LINKS + 1)))
    links.admit(b"t" * 16, arrivals(), mailbox(1, token(MAX_LINKS + 2)))


def test_a_session_takes_its_tokens_and_keys_with_it_a_thousand_times() -> None:
    links = InboundLinks()
    for number in range(1000):
        session = number.to_bytes(16, "big")
        links.admit(session, arrivals(), mailbox(key=KEY, secret=token(number)))
        links.attach(b"i", KEY, attachment(token(number)))
        assert links.public_keys == {KEY}
        links.forget(session)
    assert len(links) == 0
    assert links.public_keys == frozenset()
    assert not links._by_identity
    assert not links._by_token


@pytest.mark.parametrize(
    ("domain", "key", "code"),
    [
        (ZAP_DOMAIN, b"c", b"200"),
        (ZAP_DOMAIN, b"p", b"400"),
        (BULK_ZAP_DOMAIN, b"c", b"200"),
        (BULK_ZAP_DOMAIN, b"p", b"200"),
        (BULK_ZAP_DOMAIN, b"x", b"400"),
    ],
)
def test_a_peers_key_opens_the_bulk_socket_only(domain: bytes, key: bytes, code: bytes) -> None:
    def admitted(letter: bytes) -> set[str]:
        return {z85.encode(letter * 32).decode()}

    request = [b"1.0", b"1", domain, b"127.0.0.1", b"", b"CURVE", key * 32]
    assert verdict(request, lambda: admitted(b"c"), lambda: admitted(b"p"))[0] == code
