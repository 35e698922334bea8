"""Under a memory limit no attack takes the worker beyond it and a stated overhead, and none ends it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
import zmq

from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from tests.integration.real_daemon import LIMIT_S, RealDaemon, eventually
from tests.trust.hostile import HostileClient, Resident

pytestmark = pytest.mark.slow

LIMIT = 256 << 20
OVERHEAD = 96 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon(memory_limit="256MiB") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def idle(daemon: RealDaemon) -> Resident:
    """The worker's memory when it has served one small call."""
    serve_a_neighbour(daemon)
    return Resident(daemon.worker())


@pytest.fixture
def resident(daemon: RealDaemon, idle: Resident) -> Iterator[Resident]:
    """The worker's memory during one attack, after which the same worker still serves others."""
    idle.forget_peak()
    yield idle
    serve_a_neighbour(daemon)
    assert daemon.worker() == idle.pid, f"the worker ended: {daemon.log()}"
    assert idle.grown <= LIMIT + OVERHEAD, f"{idle.grown / MIB:.0f} MiB"


def serve_a_neighbour(daemon: RealDaemon) -> None:
    """Have somebody else make a tensor, as soon as what the last one had is free."""

    def is_served() -> bool:
        with HostileClient(daemon.endpoint) as neighbour:
            neighbour.call(neighbour.register(full(1_000)))
            return late_kinds(neighbour) == set()

    assert eventually(is_served, LIMIT_S), daemon.log()


def full(numel: int, *nodes: p.Node, outputs: tuple[p.Argument, ...] = (p.Ref(0),)) -> p.Program:
    """Return a program that makes a tensor of `numel` bytes and then runs `nodes`."""
    make = p.Node("aten.full.default", (p.Items((numel,)), 1), (("dtype", p.DtypeName("uint8")),))
    return p.Program(p.PROGRAM_VERSION, (), (), (make, *nodes), outputs)


def late_kinds(client: HostileClient) -> set[str]:
    """Return the kinds of what failed so far without an answer."""
    kinds: set[str] = set()
    client.post(m.Sync(sync := client.number()))

    def is_answer(answer: object) -> bool:
        if isinstance(answer, m.LateFailures):
            kinds.update(error.kind for error in answer.errors)
        return getattr(answer, "request_id", 0) == sync

    client.hear(is_answer)
    return kinds


def test_unread_fetches(daemon: RealDaemon, resident: Resident) -> None:
    with HostileClient(daemon.endpoint) as client:
        [large] = client.call(client.register(full(200 * MIB)))
        for _ in range(40):
            client.post(m.Fetch(client.number(), (large,)))
        assert late_kinds(client) == set()


def test_unread_fetches_of_tensors_that_were_freed(daemon: RealDaemon, resident: Resident) -> None:
    with HostileClient(daemon.endpoint) as client:
        program = client.register(full(100 * MIB))
        for _ in range(20):
            [large] = client.call(program)
            client.post(m.Fetch(client.number(), (large,)), m.Free((large,)))
        assert late_kinds(client) <= {"QuotaExceeded", "OutOfMemoryError"}


def test_queued_frames(daemon: RealDaemon, resident: Resident) -> None:
    size = 1_000
    ones = p.Node("aten.full.default", (p.Items((size, size)), 1), (("dtype", p.DtypeName("float32")),))
    products = (p.Node("aten.mm.default", (p.Ref(0), p.Ref(0))), p.Node("aten.sum.default", (p.Ref(1),)))
    large = InlineTensor(TensorSpec("uint8", (MAX_INLINE_NBYTES,), (1,)), bytes(MAX_INLINE_NBYTES))
    with ExitStack() as stack:
        clients = [stack.enter_context(HostileClient(daemon.endpoint)) for _ in range(4)]
        program = clients[0].register(p.Program(p.PROGRAM_VERSION, (), (), (ones, *products), (p.Ref(2),)))
        clients[0].post(*(m.Call(program, 0, (), (clients[0].number(),)) for _ in range(30)))
        for client in clients:
            client.control.setsockopt(zmq.SNDTIMEO, 1_000)  # a connection that was cut takes nothing for a while
            with suppress(zmq.Again):
                for _ in range(200):
                    client.post(*(m.Put(client.number(), large) for _ in range(15)))


def test_a_large_temporary(daemon: RealDaemon, resident: Resident) -> None:
    with HostileClient(daemon.endpoint) as client:
        client.call(client.register(full(3 << 30, p.Node("aten.sum.default", (p.Ref(0),)), outputs=(p.Ref(1),))))
        assert late_kinds(client) == {"OutOfMemoryError"}


def test_a_result_beyond_the_limit(daemon: RealDaemon, resident: Resident) -> None:
    with HostileClient(daemon.endpoint) as client:
        client.call(client.register(full(300 * MIB)))
        assert late_kinds(client) <= {"OutOfMemoryError", "QuotaExceeded"}
    assert resident.grown < OVERHEAD


@pytest.mark.parametrize("nbytes", [1_000, 20_000, 200_000, 3_000_000])
def test_many_temporaries_at_once(daemon: RealDaemon, resident: Resident, nbytes: int) -> None:
    count = min(200_000, 2 * LIMIT // nbytes)
    nodes = tuple(p.Node("aten.add.Tensor", (p.Ref(0), 1)) for _ in range(count))
    last = p.Node("aten.cat.default", (p.Items(tuple(p.Ref(1 + i) for i in range(count)[-60_000:])),))
    with HostileClient(daemon.endpoint) as client:
        client.call(client.register(full(nbytes, *nodes, last, outputs=(p.Ref(count + 1),))))
        assert late_kinds(client) <= {"OutOfMemoryError", "QuotaExceeded"}


def until_refused(client: HostileClient, ask: Callable[[], object], rounds: int) -> None:
    """Ask for more until there is no more; each time everything so far has been done."""
    for _ in range(rounds):
        ask()
        if kinds := late_kinds(client):
            assert kinds == {"QuotaExceeded"}
            return
    raise AssertionError("nothing was refused")


def test_hundreds_of_thousands_of_small_tensors(daemon: RealDaemon, resident: Resident) -> None:
    one = InlineTensor(TensorSpec("uint8", (1,), (1,)), b"x")
    with HostileClient(daemon.endpoint) as client:
        until_refused(client, lambda: client.post(*(m.Put(client.number(), one) for _ in range(4_000))), 75)


def test_hundreds_of_thousands_of_views(daemon: RealDaemon, resident: Resident) -> None:
    views = tuple(p.Node("aten.alias.default", (p.Ref(0),)) for _ in range(1_000))
    program = full(10, *views, outputs=tuple(p.Ref(1 + i) for i in range(1_000)))
    with HostileClient(daemon.endpoint) as client:
        number = client.register(program)
        until_refused(client, lambda: client.call(number, results=1_000), 400)


def test_thousands_of_operators_in_hundreds_of_programs(daemon: RealDaemon, resident: Resident) -> None:
    with HostileClient(daemon.endpoint) as client:
        salts = itertools.count()

        def register() -> None:
            salt = next(salts)
            nodes = tuple(p.Node("aten.add.Tensor", (p.Ref(i), salt)) for i in range(2_000))
            client.register(full(8, *nodes, outputs=(p.Ref(2_000),)))

        until_refused(client, register, 200)


def test_thousands_of_bindings(daemon: RealDaemon, resident: Resident) -> None:
    inputs = tuple(p.TensorInput() for _ in range(1_000))
    program = p.Program(p.PROGRAM_VERSION, inputs, (), (), (p.Ref(0),))
    with HostileClient(daemon.endpoint) as client:
        number, [handle] = client.register(program), client.call(client.register(full(8)))
        positions, handles = tuple(range(1_000)), (handle,) * 1_000

        def bind() -> None:
            client.post(*(m.BindWeights(client.number(), number, positions, handles) for _ in range(50)))

        until_refused(client, bind, 50)


def test_answers_that_sixteen_clients_do_not_read(daemon: RealDaemon, resident: Resident) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(HostileClient(daemon.endpoint)) for _ in range(16)]
        for client in clients:
            [tensor] = client.call(client.register(full(8 * MAX_INLINE_NBYTES)))
            client.post(*(m.Fetch(client.number(), (tensor,)) for _ in range(30)))
        for client in clients:  # by then everything was answered
            client.control.setsockopt(zmq.RCVTIMEO, 60_000)
            client.control.recv()
