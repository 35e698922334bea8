"""Sessions of one tenant take turns by the time that they use, and one that floods them costs the others nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq

from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from tests.integration.real_daemon import RealDaemon
from tests.remote_daemon.recording_worker import NAME, read_record
from tests.trust.hostile import WAIT_MS, HostileClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LIGHTS, CALLS = 15, 60
HOG_BATCHES, A_BATCH = 30, 4
SIZE = 1_000
"""Of the matrices that the hog multiplies: some tens of milliseconds."""

PAIR = TensorSpec("float32", (2,), (1,))
INCREMENT = p.Program(
    p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.add.Tensor", (p.Ref(0), 1)),), (p.Ref(1),)
)
PRODUCT = p.Program(
    p.PROGRAM_VERSION,
    (),
    (),
    (
        p.Node("aten.full.default", (p.Items((SIZE, SIZE)), 1), (("dtype", p.DtypeName("float32")),)),
        p.Node("aten.mm.default", (p.Ref(0), p.Ref(0))),
        p.Node("aten.sum.default", (p.Ref(1),)),
    ),
    (p.Ref(2),),
)


class RecordingDaemon(RealDaemon):
    """A daemon whose worker keeps a record of what it ran."""

    program = ("-m", NAME)

    def calls(self) -> list[int]:
        """Return whose calls ran: sessions, numbered in the order in which they were opened."""
        ran = read_record(self.log())
        return [int(each.session.rpartition(".")[2]) for each in ran if isinstance(each.command, m.Call)]


class Hog(HostileClient):
    """Posts big products and reads nothing."""

    def post_products(self) -> None:
        program = self.register(PRODUCT)
        for _ in range(HOG_BATCHES):
            self._last = [self.number() for _ in range(A_BATCH)]
            self.post(*(m.Call(program, 0, (), (handle,)) for handle in self._last))

    def last_sum(self) -> float:
        """Wait until everything has run."""
        answer = self.ask(m.Fetch(self.number(), tuple(self._last)))
        return float(struct.unpack("f", answer.tensors[-1].data)[0])


class Light(HostileClient):
    """Counts by small calls, and reads what comes of them."""

    def __init__(self, endpoint: str, key_file: Path | None) -> None:
        super().__init__(endpoint, key_file)
        self._program = self.register(INCREMENT)
        self.sync()
        self.value = self.asked = 0

    def ask_for_next(self) -> None:
        handle, value = self.number(), float(self.asked)
        increment = m.Call(self._program, 0, (InlineTensor(PAIR, struct.pack("2f", value, value)),), (handle,))
        self.asked += 1
        self.post(increment, m.Fetch(self.number(), (handle,)), m.Free((handle,)))

    def hear_next(self) -> bool:
        """Take a message; return whether it was the next value, which must be right."""
        answer = codec.worker_to_client(self.control.recv())
        if not isinstance(answer, m.Fetched):
            assert isinstance(answer, m.Acknowledged), answer
            return False
        [tensor] = answer.tensors
        assert isinstance(tensor, m.FetchedTensor)
        self.value += 1
        assert struct.unpack("2f", tensor.data) == (self.value, self.value)
        return True

    def count(self) -> None:
        """Make a call and wait for its value."""
        self.ask_for_next()
        while not self.hear_next():
            pass


def hear_all(lights: list[Light], *, ask_again: bool) -> None:
    """Read until every client has its last value."""
    poller = zmq.Poller()
    for light in lights:
        poller.register(light.control, zmq.POLLIN)
    by_socket = {light.control: light for light in lights}
    while any(light.value < CALLS for light in lights):
        ready = poller.poll(WAIT_MS)
        assert ready, "nobody was answered"
        for socket, _ in ready:
            light = by_socket[socket]
            if light.hear_next() and ask_again and light.asked < CALLS:
                light.ask_for_next()


class Tenant:
    """A hog and its light neighbours, at the same worker; none has called anything yet."""

    def __init__(self, daemon: RecordingDaemon, key_file: Path | None) -> None:
        self._daemon = daemon
        self._open = ExitStack()
        self.hog = self._open.enter_context(Hog(daemon.endpoint, key_file))
        self.lights = [self._open.enter_context(Light(daemon.endpoint, key_file)) for _ in range(LIGHTS)]
        self._calls_before = len(daemon.calls())

    def ran(self) -> list[int]:
        """Return whose calls have run so far: 0 is the hog, the others are those of the light ones."""
        ran = self._daemon.calls()[self._calls_before :]
        first = min(ran) if ran else 0
        return [number - first for number in ran]

    def close(self) -> None:
        self._open.close()


@pytest.fixture(scope="module", params=["without keys", "one key"])
def at_daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RecordingDaemon, Path | None]]:
    keys = key_file = None
    if request.param == "one key":
        keys = tmp_path_factory.mktemp("keys")
        key_file = create_client_keys(create_server_keys(keys), "tenant")
    with RecordingDaemon(keys=keys) as daemon:
        yield daemon, key_file


@pytest.fixture
def tenant(at_daemon: tuple[RecordingDaemon, Path | None]) -> Iterator[Tenant]:
    tenant = Tenant(*at_daemon)
    yield tenant
    tenant.close()


def test_a_hog_leaves_its_neighbours_their_time(tenant: Tenant) -> None:
    tenant.hog.post_products()
    for light in tenant.lights:
        light.ask_for_next()
    hear_all(tenant.lights, ask_again=True)
    ran = tenant.ran()
    assert [ran.count(number) for number in range(1, LIGHTS + 1)] == [CALLS] * LIGHTS
    assert ran.count(0) < HOG_BATCHES, f"of {HOG_BATCHES * A_BATCH} one a round of the others would be {CALLS}"
    assert tenant.hog.last_sum() == SIZE**3
    assert tenant.ran().count(0) == HOG_BATCHES * A_BATCH


def test_what_light_clients_have_waiting_runs_between_few_commands_of_a_hog(tenant: Tenant) -> None:
    tenant.hog.post_products()
    for _ in range(CALLS):
        for light in tenant.lights:
            light.ask_for_next()
    hear_all(tenant.lights, ask_again=False)
    ran = tenant.ran()
    for number in range(1, LIGHTS + 1):
        where = [place for place, session in enumerate(ran) if session == number]
        between = ran[where[0] : where[-1]].count(0)
        assert between < CALLS // 4, f"{between} commands of the hog between {CALLS} that waited"


# --- clients that send more than they may --------------------------------------------------------------------------

ROUNDS = 6
MANY = 2_000
"""Batches, of which a client with manners never has so many under way."""


def keep_busy(client: HostileClient, calls: int) -> None:
    program = client.register(PRODUCT)
    client.post(*(m.Call(program, 0, (), (client.number(),)) for _ in range(calls)))


@pytest.fixture
def neighbour(at_daemon: tuple[RecordingDaemon, Path | None]) -> Iterator[Light]:
    with Light(*_where(at_daemon)) as neighbour:
        yield neighbour


def _where(at_daemon: tuple[RecordingDaemon, Path | None]) -> tuple[str, Path | None]:
    daemon, key_file = at_daemon
    return daemon.endpoint, key_file


def test_a_client_that_leaves_with_much_unread_ends_nobody(
    at_daemon: tuple[RecordingDaemon, Path | None], neighbour: Light
) -> None:
    daemon, _ = at_daemon
    worker = daemon.worker()
    for _ in range(ROUNDS):
        with HostileClient(*_where(at_daemon)) as client:
            client.control.sndhwm = 0
            keep_busy(client, 10)
            for _ in range(MANY):
                client.post(m.Sync(client.number()))
            neighbour.count()
        neighbour.count()
    assert daemon.worker() == worker
    assert neighbour.value == 2 * ROUNDS


def test_more_than_may_wait_ends_the_session_of_who_sent_it(
    at_daemon: tuple[RecordingDaemon, Path | None], neighbour: Light
) -> None:
    with HostileClient(*_where(at_daemon)) as client:
        client.control.setsockopt(zmq.SNDTIMEO, 1_000)
        keep_busy(client, 30)
        with suppress(zmq.Again):  # its connection was cut, and takes nothing for a while
            for _ in range(20 * MANY):
                client.post(m.Sync(client.number()))
        neighbour.count()
        lost = client.hear(lambda answer: isinstance(answer, m.Failed | m.Detached))
    assert isinstance(lost, m.Detached) or "of commands wait to run" in lost.error.message
    neighbour.count()
    assert neighbour.value == 2
