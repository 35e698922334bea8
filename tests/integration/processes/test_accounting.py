"""What `stats()` says is what the kernel's socket counters say, and a decode step moves next to nothing.

Bytes on the wire depend on neither the width of a model nor its weights: a step sends ids, and names of things that
are there. So the model here has GPT-2's layers, heads and vocabulary, and is narrow only to be quick.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire.limits import ACKNOWLEDGE_BATCHES, CHUNK_NBYTES
from tests.integration.real_daemon import RealDaemon, eventually

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads the kernel's socket counters"),
]

MAX_STEP_NBYTES = 3_000
WARM_STEPS = 4
STEPS = 8

SHORT_FRAME_NBYTES, LONG_FRAME_NBYTES = 2, 9
"""What ZMTP puts before a frame: flags, and a length of one byte or of eight."""
ACKNOWLEDGED_NBYTES = 16
"""One PING that we send and one PONG to the other side's, with their frame headers."""

BYTES_ACKED_AT, BYTES_RECEIVED_AT, UNACKED_AT = 120, 128, 24
"""Offsets in the kernel's `struct tcp_info`."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    dynamo_genie.shutdown()  # sessions that other tests of this process left open
    with RealDaemon() as daemon:
        yield daemon
        dynamo_genie.shutdown()


def compile_for(daemon: RealDaemon, target: Any) -> Any:
    return torch.compile(target, backend=genie, options={"daemons": [daemon.endpoint]})


def session() -> Session:
    (connection,) = CONNECTIONS.all()
    return connection.session


@dataclass(frozen=True)
class Wire:
    """Bytes that the kernel moved on the connections to a worker."""

    sent: int
    received: int

    def __sub__(self, other: Wire) -> Wire:
        return Wire(self.sent - other.sent, self.received - other.received)


def read_wire() -> Wire:
    """Sum the counters of our connections to the worker's two sockets, once everything sent was acknowledged."""
    assert eventually(lambda: all(struct.unpack_from("I", info, UNACKED_AT)[0] == 0 for info in tcp_infos()))
    infos = tcp_infos()
    assert len(infos) == 2, "one connection for control, one for bulk"
    return Wire(*(sum(struct.unpack_from("Q", i, at)[0] for i in infos) for at in (BYTES_ACKED_AT, BYTES_RECEIVED_AT)))


def tcp_infos() -> list[bytes]:
    welcome = session().attachment.welcome
    ports = {int(endpoint.rpartition(":")[2]) for endpoint in (welcome.control, welcome.bulk)}
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(descriptor).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor.name))) as sock:
                if sock.family == socket.AF_INET and sock.getpeername()[1] in ports:
                    found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
        except OSError:  # closed meanwhile, or not connected
            continue
    return found


class Meter:
    """Compares the kernel's count with `stats()` over a stretch of work."""

    def __init__(self) -> None:
        session().sync()  # `generate` does not wait for its last token: that batch is counted, and may not have left
        dynamo_genie.reset_stats()
        self._wire = read_wire()
        self._batches = session().identity.batches

    def check(self, *, bulk_frames: int = 0) -> None:
        session().sync()
        stats = dynamo_genie.stats()["total"]
        moved = read_wire() - self._wire
        acknowledged = ACKNOWLEDGED_NBYTES * ((session().identity.batches - self._batches) // ACKNOWLEDGE_BATCHES + 1)
        for name, counted, kernel, frames in (
            ("sent", stats["sent_total"], moved.sent, session().identity.batches - self._batches),
            ("received", stats["received_total"], moved.received, stats["round_trips"]),
        ):
            assert counted == sum(stats[name].values())
            framing = kernel - counted
            assert framing >= SHORT_FRAME_NBYTES * frames, f"{name}: {counted} counted, {kernel} moved"
            most = LONG_FRAME_NBYTES * (frames + bulk_frames) + acknowledged
            assert framing <= most, f"{name}: {counted} counted, {kernel} moved, {most} explained"


def test_stats_agree_with_the_kernel_for_inline_and_bulk_data(daemon: RealDaemon) -> None:
    call = compile_for(daemon, lambda x: x + 1)
    small, large = torch.ones(100), torch.ones(5 * CHUNK_NBYTES // 4 + 1)
    for x in (small, large):
        call(x).clone().sum().item()
    meter = Meter()
    for _ in range(3):
        assert torch.equal(call(small) + 0, small + 1)
    meter.check()
    meter = Meter()
    result = call(large).numpy()
    assert (result == 2).all()
    stats = dynamo_genie.stats()["total"]
    assert stats["sent"]["input"] == large.nbytes
    assert stats["received"]["output"] == large.nbytes
    meter.check(bulk_frames=2 * 6 + 8)  # six chunks with headers; begin, done, credits


class Recorder(hf.StoppingCriteria):
    """Notes the counters after each token; never stops."""

    def __init__(self) -> None:
        self.totals: list[dict[str, Any]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.totals.append(dynamo_genie.stats()["total"])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.fixture(scope="module")
def gpt2(daemon: RealDaemon) -> Any:
    config = hf.GPT2Config(n_layer=12, n_head=12, n_embd=96, vocab_size=50257, n_positions=1024)
    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.disable_compile = True
    model.forward = compile_for(daemon, model.forward)
    return model


def generate(model: Any, length: int, steps: int, recorder: Recorder) -> None:
    ids = torch.randint(3, 50_000, (1, length), generator=torch.Generator().manual_seed(length))
    options = dict(do_sample=False, max_new_tokens=steps, stopping_criteria=hf.StoppingCriteriaList([recorder]))
    with torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)


def step_nbytes(model: Any, length: int) -> list[int]:
    """Return what each greedy step moved, both directions together, once everything is compiled."""
    recorder = Recorder()
    generate(model, length, WARM_STEPS + STEPS, recorder)
    steps = list(zip(recorder.totals[-STEPS - 1 :], recorder.totals[-STEPS:], strict=False))
    assert [after["calls"] - before["calls"] for before, after in steps] == [1] * STEPS
    return [sum(after[n] - before[n] for n in ("sent_total", "received_total")) for before, after in steps]


def test_greedy_decode_step_moves_no_cache_and_at_most_3000_bytes_at_any_cache_length(gpt2: Any) -> None:
    generate(gpt2, 128, WARM_STEPS, Recorder())  # compiles
    meter = Meter()
    moved = {length: step_nbytes(gpt2, length) for length in (128, 1_000)}
    meter.check()
    for steps in moved.values():
        assert min(steps) > 0 and max(steps) <= MAX_STEP_NBYTES, moved
    assert max(moved[1_000]) - min(moved[128]) < 200, f"only the packed mask may grow: {moved}"
    stats = dynamo_genie.stats()["total"]
    for name in ("sent", "received"):
        assert stats[name]["kv_cache"] == 0
        assert stats[name]["weight"] == 0
