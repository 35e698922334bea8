"""A daemon on a real GPU: its pool and copies, its own way to run out, and the tokens of local CUDA eager.

With GPU_CHECK_REHEARSE=1 the CPU stands in for the GPU wherever the test does not need CUDA itself: so every line here
has run before it meets a GPU. What matters most comes first, since the time on one may end.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import zmq
from torch.nn import functional as F

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.study.gpu import Gpu
from dynamo_genie.remote_daemon.memory.cupy_memory import open_cuda_memory
from dynamo_genie.remote_daemon.memory.pinned_ring import SLOT_NBYTES, SLOTS
from dynamo_genie.runtime.connect.open_session import open_session
from tests.integration.models import make_model, token_prompt
from tests.integration.real_daemon import RealDaemon, SimulatedDaemon

REHEARSED = os.environ.get("GPU_CHECK_REHEARSE") == "1"
DEVICE = "cpu" if REHEARSED else "cuda"
SMALLER = 8 if REHEARSED else 1
"""A rehearsal moves so much less memory."""

pytestmark = [pytest.mark.gpu]
if REHEARSED:  # an engine that needs CUDA says that it cannot be had; on a GPU that is an error
    pytestmark.append(pytest.mark.filterwarnings("ignore::dynamo_genie.errors.EngineWarning"))


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    """Options that lead to a daemon on the GPU."""
    with running_daemon(device=DEVICE) as daemon:
        yield {"daemons": daemon.endpoint}
        dynamo_genie.shutdown()


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value


def generate(model: Any, ids: torch.Tensor, **options: Any) -> list[int]:
    with torch.no_grad():
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, **options)
    return tokens[0].tolist()  # type: ignore[no-any-return]


def test_what_stays_is_in_the_pool_and_survives_being_used_again(options: dict[str, str]) -> None:
    values = [torch.randn(n) for n in (1 << 10, 1 << 16, 3 << 20)]
    double = torch.compile(lambda x: x * 2, backend=genie, options=options, dynamic=False)
    for _ in range(3):
        for value in values:
            assert torch.equal(double(value).clone(), value * 2)


@pytest.mark.skipif(REHEARSED, reason="needs CUDA's streams and pinned memory")
@pytest.mark.parametrize("seed", range(5))
def test_copies_and_kernels_on_real_streams_see_what_a_queue_would_show(seed: int) -> None:
    """Uploads, kernels and downloads of the same memory without a pause; `compute-sanitizer` may watch it."""
    device = torch.device("cuda", 0)
    memory, ring = open_cuda_memory(device, 2 << 30)
    generator = torch.Generator().manual_seed(seed)
    size = 3 * SLOTS * SLOT_NBYTES // 2
    cells = [memory.allocate(size) for _ in range(3)]
    shadow = [torch.zeros(size, dtype=torch.uint8) for _ in cells]
    for cell, right in zip(cells, shadow, strict=True):
        ring.upload(cell, right)
    for _ in range(40):
        i, k, kind = (int(torch.randint(0, 3, (), generator=generator)) for _ in range(3))
        if kind == 0:
            new = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
            ring.upload(cells[i], new)
            shadow[i].copy_(new)
            new.zero_()  # an upload that returned needs its source no longer
        elif kind == 1:
            cells[i].add_(cells[k])
            shadow[i].add_(shadow[k])
        else:
            cells[i] = memory.allocate(size).copy_(cells[i])  # what was there is used again by somebody
            back = torch.zeros(size, dtype=torch.uint8)
            ring.download(back, cells[i])
            assert torch.equal(back, shadow[i])
    for cell, right in zip(cells, shadow, strict=True):
        assert torch.equal(cell.cpu(), right)


def test_nvml_and_the_daemon_agree_on_memory() -> None:
    gpu = Gpu()
    if gpu.used_memory() is None:
        pytest.skip("there is no NVML to ask")
    with RealDaemon(device=DEVICE) as daemon:
        session = open_session(
            zmq.Context.instance(), daemon.endpoint, keys=None, connect_timeout_s=60, request_timeout_s=60
        )
        pid = daemon.worker()
        before = _held(gpu, pid)
        kept = [session.put(torch.zeros(64 << 20)) for _ in range(8)]  # 2 GiB
        session.sync()
        grown = _held(gpu, pid) - before
        said = daemon.status().resident_nbytes
        assert said == 2 << 30
        assert abs(grown - said) <= 0.05 * said, f"NVML: {grown:,}, the daemon: {said:,}"
        del kept
        session.close()


def _held(gpu: Gpu, pid: int) -> int:
    """Return what a process holds; what all do where NVML cannot tell processes apart, as in some containers."""
    return gpu.memory_of([pid]) or gpu.used_memory() or 0


def test_what_idle_sessions_hold_leaves_a_full_gpu_and_comes_back() -> None:
    small = SimulatedDaemon if REHEARSED else RealDaemon
    with small(device=DEVICE, memory_limit=f"{304 // SMALLER}MiB") as daemon, ExitStack() as stack:
        sessions = []
        for _ in range(3):
            session = open_session(
                zmq.Context.instance(), daemon.endpoint, keys=None, connect_timeout_s=60, request_timeout_s=60
            )
            stack.callback(session.close)
            sessions.append(session)
        values = [torch.randn((32 << 20) // SMALLER) for _ in sessions]  # 128 MiB each: two fit, and little else
        handles = [session.put(value) for session, value in zip(sessions, values, strict=True)]
        for _ in range(2):
            for session, handle, value in zip(sessions, handles, values, strict=True):
                [found] = session.fetch([handle.id], ["output"])
                assert torch.equal(found, value)


def test_a_device_side_assert_is_told_to_its_session_and_a_new_worker_starts(options: dict[str, str]) -> None:
    @torch.compile(backend=genie, options=options, dynamic=False)
    def pick(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return table[index] + 1

    assert pick(torch.ones(4), torch.tensor([1, 2])).tolist() == [2.0, 2.0]
    with pytest.raises(Exception, match=r"assert|index|out of bounds"):
        pick(torch.ones(4), torch.tensor([1, 1 << 20])).tolist()
    fresh = torch.compile(lambda x: x + 1, backend=genie, options=options)
    assert fresh(torch.ones(2)).tolist() == [2.0, 2.0]


def test_the_daemon_says_that_it_runs_on_cuda(options: dict[str, str]) -> None:
    assert dynamo_genie.connect(**options)["device"].startswith(DEVICE)


def test_random_numbers_are_those_of_the_cpu_generator(options: dict[str, str]) -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, training=True) + torch.rand_like(x) + torch.randn(x.shape)

    x = torch.ones(64, 33)
    torch.manual_seed(5)
    expected, state = noisy(x), torch.get_rng_state()
    torch.manual_seed(5)
    actual = torch.compile(noisy, backend=genie, options=options)(x)
    torch.testing.assert_close(actual.clone(), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_running_out_of_gpu_memory_is_an_out_of_memory_error_and_the_session_lives_on(options: dict[str, str]) -> None:
    @torch.compile(backend=genie, options=options, dynamic=False)
    def grow(x: torch.Tensor) -> torch.Tensor:
        return x.expand(1 << 22, 1 << 20).clone().sum()  # 16 TiB of float32

    with pytest.raises(torch.OutOfMemoryError) as caught:
        grow(torch.ones(1, 1)).item()
    assert type(caught.value).__name__ == "RemoteOutOfMemory"
    assert torch.compile(lambda x: x + 1, backend=genie, options=options)(torch.ones(2)).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_generate_gives_the_tokens_of_local_cuda_eager(options: dict[str, str], cache: dict[str, str]) -> None:
    model = make_model("gpt2")
    ids = token_prompt(batch=1).inputs["input_ids"]
    expected = generate(copy.deepcopy(model).to(DEVICE), ids.to(DEVICE), **cache)
    model.compile(backend=genie, options=options)
    assert generate(model, ids, **cache) == expected


@pytest.mark.parametrize("engine", ["eager", "cudagraphs", "inductor"])
def test_every_engine_generates_the_tokens_of_local_cuda_eager(options: dict[str, str], engine: str) -> None:
    model = make_model("gpt2")
    ids = token_prompt(batch=1).inputs["input_ids"]
    expected = generate(copy.deepcopy(model).to(DEVICE), ids.to(DEVICE), cache_implementation="static")
    model.compile(backend=genie, options={**options, "engine": engine})
    for _ in range(3):  # new caches each time, elsewhere or where the last ones were
        assert generate(model, ids, cache_implementation="static") == expected
