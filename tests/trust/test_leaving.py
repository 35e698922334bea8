"""A client that floods its worker and leaves, or reads nothing, costs its neighbours no session and no value."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zmq

from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import InlineTensor
from tests.integration.real_daemon import RealDaemon
from tests.trust.hostile import HostileClient
from tests.trust.test_turns import INCREMENT, PAIR, PRODUCT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROUNDS = 6
MANY = 2_000
"""Batches, of which a client with manners never has so many under way."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon() as daemon:
        yield daemon


class Neighbour(HostileClient):
    """Counts, in one session."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self._program = self.register(INCREMENT)
        self.count = 0

    def call(self) -> None:  # type: ignore[override]
        handle, value = self.number(), float(self.count)
        one_more = m.Call(self._program, 0, (InlineTensor(PAIR, struct.pack("2f", value, value)),), (handle,))
        self.post(one_more)
        [tensor] = self.ask(m.Fetch(self.number(), (handle,))).tensors
        self.count += 1
        assert struct.unpack("2f", tensor.data) == (self.count, self.count)


@pytest.fixture
def neighbour(daemon: RealDaemon) -> Iterator[Neighbour]:
    with Neighbour(daemon.endpoint) as neighbour:
        neighbour.call()
        yield neighbour


def keep_busy(client: HostileClient, calls: int) -> None:
    program = client.register(PRODUCT)
    client.post(*(m.Call(program, 0, (), (client.number(),)) for _ in range(calls)))


def test_a_client_that_leaves_with_much_unread_ends_nobody(daemon: RealDaemon, neighbour: Neighbour) -> None:
    worker = daemon.worker()
    for _ in range(ROUNDS):
        with HostileClient(daemon.endpoint) as client:
            client.control.sndhwm = 0
            keep_busy(client, 10)
            for _ in range(MANY):
                client.post(m.Sync(client.number()))
            neighbour.call()
        neighbour.call()
    assert daemon.worker() == worker
    assert neighbour.count == 1 + 2 * ROUNDS


def test_more_than_may_wait_ends_the_session_of_who_sent_it(daemon: RealDaemon, neighbour: Neighbour) -> None:
    with HostileClient(daemon.endpoint) as client:
        client.control.setsockopt(zmq.SNDTIMEO, 1_000)
        keep_busy(client, 30)
        with suppress(zmq.Again):
            for _ in range(20 * MANY):
                client.post(m.Sync(client.number()))
        neighbour.call()
        assert client.control.poll(10_000)
        lost = client.hear(lambda answer: isinstance(answer, m.Failed | m.Detached))
    assert isinstance(lost, m.Detached) or "of commands wait to run" in lost.error.message
    neighbour.call()
    assert neighbour.count == 3
