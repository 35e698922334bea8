"""Under a memory limit no attack takes the worker beyond it and a stated overhead, and none ends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from tests.integration.real_daemon import RealDaemon
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
    with HostileClient(daemon.endpoint) as neighbour:
        neighbour.call(neighbour.register(full(1_000)))
        assert late_kinds(neighbour) == set()


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


def test_hundreds_of_thousands_of_small_tensors(daemon: RealDaemon, resident: Resident) -> None:
    one = InlineTensor(TensorSpec("uint8", (1,), (1,)), b"x")
    with HostileClient(daemon.endpoint) as client:
        for _ in range(300):
            client.post(*(m.Put(client.number(), one) for _ in range(1_000)))
        assert late_kinds(client) == {"QuotaExceeded"}


def test_hundreds_of_thousands_of_views(daemon: RealDaemon, resident: Resident) -> None:
    views = tuple(p.Node("aten.alias.default", (p.Ref(0),)) for _ in range(1_000))
    program = full(10, *views, outputs=tuple(p.Ref(1 + i) for i in range(1_000)))
    with HostileClient(daemon.endpoint) as client:
        number = client.register(program)
        for _ in range(400):
            client.call(number, results=1_000)
        assert late_kinds(client) == {"QuotaExceeded"}


def test_thousands_of_programs(daemon: RealDaemon, resident: Resident) -> None:
    with HostileClient(daemon.endpoint) as client:
        for salt in range(1_000):
            nodes = tuple(p.Node("aten.add.Tensor", (p.Ref(i), salt)) for i in range(500))
            client.register(full(8, *nodes, outputs=(p.Ref(500),)))
        assert late_kinds(client) == {"QuotaExceeded"}


def test_hundreds_of_thousands_of_bindings(daemon: RealDaemon, resident: Resident) -> None:
    inputs = tuple(p.TensorInput() for _ in range(500))
    program = p.Program(p.PROGRAM_VERSION, inputs, (), (), (p.Ref(0),))
    with HostileClient(daemon.endpoint) as client:
        number, [handle] = client.register(program), client.call(client.register(full(8)))
        positions, handles = tuple(range(500)), (handle,) * 500
        for _ in range(1_000):
            client.post(*(m.BindWeights(client.number(), number, positions, handles) for _ in range(20)))
        assert late_kinds(client) == {"QuotaExceeded"}


def test_failures_that_nobody_frees(daemon: RealDaemon, resident: Resident) -> None:
    data = InlineTensor(TensorSpec("uint8", (3,), (1,)), b"xyz")
    node = p.Node("aten.view.default", (p.Ref(0), p.Items((7,))))
    program = p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (node,), (p.Ref(1),))
    with HostileClient(daemon.endpoint) as client:
        number = client.register(program)
        for _ in range(100):
            client.post(*(m.Call(number, 0, (data,), (client.number(),)) for _ in range(1_000)))
        assert late_kinds(client) == {"RuntimeError"}


def test_answers_that_nobody_reads(daemon: RealDaemon, resident: Resident) -> None:
    nbytes = 8 * MAX_INLINE_NBYTES
    with HostileClient(daemon.endpoint) as client:
        [tensor] = client.call(client.register(full(nbytes)))
        for _ in range(900):
            client.post(m.Fetch(client.number(), (tensor,)))
        with HostileClient(daemon.endpoint) as other:
            assert isinstance(other.sync(), m.Done)
