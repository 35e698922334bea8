"""Weights are held once per daemon and tenant, sent once, copied when somebody changes them, and given up in the end.

Several sessions of one daemon need several processes: a second client runs a script of its own.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.errors import GenieError, QuotaExceeded
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, RealDaemon, environment, eventually, run_python

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

WIDTH = 700
LAYERS = 3
LAYER_NBYTES = WIDTH * WIDTH * 4

CLIENT = f"""
import json, sys
import torch
from torch import nn
import dynamo_genie
from dynamo_genie.backend import genie

torch.manual_seed(0)
options = json.loads(sys.argv[1])
model = nn.Sequential(*(nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range({LAYERS}))).requires_grad_(False)
call = torch.compile(model, backend=genie, options=options)
x = torch.ones(1, {WIDTH})

def report():
    result = call(x) + 0
    print(json.dumps({{
        "right": torch.equal(result, model(x)),
        "sum": result.sum().item(),
        "weight": dynamo_genie.stats()["total"]["sent"]["weight"],
    }}), flush=True)

for line in sys.stdin:
    if line.strip() == "change":
        model[0].weight.mul_(2)
    if line.strip() == "big":
        kept = torch.compile(torch.sin, backend=genie, options=options)(torch.ones(1_000_000))
    report()
"""


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))).requires_grad_(False)


class Client:
    """A second process with the same model; each `ask` is one call and a report about it."""

    def __init__(self, **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=REPOSITORY,
            text=True,
        )

    def ask(self, order: str = "call") -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the client died"
        report: dict[str, Any] = json.loads(line)
        assert report["right"], report
        return report

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(LIMIT_S)
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    dynamo_genie.shutdown()  # sessions that other tests of this process left open
    yield
    dynamo_genie.shutdown()


@pytest.fixture
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon(memory_limit="40MB") as daemon:
        yield daemon


def compile_for(daemon: RealDaemon, target: Any, **options: object) -> Any:
    return torch.compile(target, backend=genie, options={"daemons": [daemon.endpoint], **options})


def sent_weights() -> int:
    return int(dynamo_genie.stats()["total"]["sent"]["weight"])


def test_two_sessions_share_one_copy_until_one_changes_it(daemon: RealDaemon) -> None:
    model, x = make_model(), torch.ones(1, WIDTH)
    call = compile_for(daemon, model)
    before = call(x) + 0
    before.sum().item()
    assert sent_weights() == LAYERS * LAYER_NBYTES
    with Client(daemons=[daemon.endpoint]) as other:
        first = other.ask()
        assert first["weight"] == 0, "the daemon had these weights already"
        status = daemon.status()
        assert len(status.sessions) == 2
        assert status.weight_nbytes == LAYERS * LAYER_NBYTES
        changed = other.ask("change")
        assert changed["sum"] != first["sum"]
        assert torch.equal(call(x) + 0, before)
        assert torch.equal(before, model(x))
        with torch.no_grad():
            model[1].weight.add_(1)
        assert torch.equal(call(x) + 0, model(x))
        assert other.ask()["sum"] == changed["sum"]


def test_weights_stay_for_the_next_session(daemon: RealDaemon) -> None:
    with Client(daemons=[daemon.endpoint]) as first:
        assert first.ask()["weight"] == LAYERS * LAYER_NBYTES
    assert eventually(lambda: not daemon.status().sessions)
    assert daemon.status().weight_nbytes == LAYERS * LAYER_NBYTES
    call = compile_for(daemon, make_model())
    call(torch.ones(1, WIDTH)).sum().item()
    assert sent_weights() == 0


def test_unused_weights_make_room_for_others(daemon: RealDaemon) -> None:
    with Client(daemons=[daemon.endpoint]) as first:
        first.ask()
    assert eventually(lambda: not daemon.status().sessions)
    torch.manual_seed(1)
    size = 2_950  # 34.8 MB of the 40 MB, so the other model (5.9 MB) may not stay
    model = nn.Linear(size, size, bias=False).requires_grad_(False)
    x = torch.ones(1, size)
    assert torch.equal(compile_for(daemon, model)(x) + 0, model(x))
    left = daemon.status().weight_nbytes - size * size * 4
    assert 0 <= left < LAYERS * LAYER_NBYTES, "the oldest had to go"


def test_tied_weights_are_sent_and_held_once(daemon: RealDaemon) -> None:
    model = make_model()
    model[2].weight = model[0].weight
    x = torch.ones(1, WIDTH)
    assert torch.equal(compile_for(daemon, model)(x) + 0, model(x))
    assert sent_weights() == 2 * LAYER_NBYTES
    assert daemon.status().weight_nbytes == 2 * LAYER_NBYTES


def test_equal_weights_in_different_memory_are_sent_and_held_once_and_change_alone(daemon: RealDaemon) -> None:
    model = make_model()
    model[2].load_state_dict(model[0].state_dict())
    call, x = compile_for(daemon, model), torch.ones(1, WIDTH)
    assert torch.equal(call(x) + 0, model(x))
    assert sent_weights() == 2 * LAYER_NBYTES
    with torch.no_grad():
        model[2].weight.add_(1)
    assert torch.equal(call(x) + 0, model(x))


def test_one_changed_element_sends_one_chunk(daemon: RealDaemon) -> None:
    model, x = make_model(), torch.ones(1, WIDTH)
    call = compile_for(daemon, model)
    call(x).sum().item()
    dynamo_genie.reset_stats()
    with torch.no_grad():
        model[1].weight[3, 5] = 9.0
    assert torch.equal(call(x) + 0, model(x))
    assert 0 < sent_weights() <= CHUNK_NBYTES < LAYER_NBYTES


def test_change_of_a_weight_that_has_no_room_for_a_copy_is_right_or_an_error(daemon: RealDaemon) -> None:
    size = 2_500  # 25 MB of 40 MB: the content cannot be there twice
    model = nn.Linear(size, size, bias=False).requires_grad_(False)
    call, x = compile_for(daemon, model), torch.ones(1, size)
    assert torch.equal(call(x) + 0, model(x))
    with torch.no_grad():
        model.weight[0, 0] += 1
    assert torch.equal(call(x) + 0, model(x))
    status = daemon.status()
    assert status.resident_nbytes < 30_000_000


def test_copy_that_finds_no_room_beside_another_user_is_quota_exceeded_never_a_wrong_result() -> None:
    with RealDaemon(memory_limit=str(LAYERS * LAYER_NBYTES + CHUNK_NBYTES + 100_000)) as daemon:
        model, x = make_model(), torch.ones(1, WIDTH)
        call = compile_for(daemon, model)
        assert torch.equal(call(x) + 0, model(x))
        with Client(daemons=[daemon.endpoint]) as other:
            assert other.ask()["weight"] == 0
            with torch.no_grad():
                model[0].weight[0, 0] += 1  # one chunk, which has room; the copy of the whole weight has none
            for _ in range(2):
                with pytest.raises(Exception, match="memory-limit") as caught:
                    (call(x) + 0).sum().item()
                error = getattr(caught.value, "inner_exception", None) or caught.value
                assert isinstance(error, QuotaExceeded)
            other.ask()
        assert eventually(lambda: len(daemon.status().sessions) <= 1)
        assert torch.equal(call(x) + 0, model(x))


def test_weights_of_another_tenant_are_not_visible(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keygen = "from dynamo_genie.cli.__main__ import main; main()"
    run_python(keygen, "keygen", str(keys))
    run_python(keygen, "keygen", str(keys), "--client", "second")
    first, second = sorted(
        path for path in keys.rglob("*") if path.is_file() and b"genie-client-key" in path.read_bytes()
    )
    with (
        RealDaemon(keys=keys) as daemon,
        Client(daemons=[daemon.endpoint], key_file=str(first), connect_timeout_s=LIMIT_S) as one,
    ):
        assert one.ask()["weight"] == LAYERS * LAYER_NBYTES
        with Client(daemons=[daemon.endpoint], key_file=str(second), connect_timeout_s=LIMIT_S) as two:
            assert two.ask()["weight"] == LAYERS * LAYER_NBYTES
            seen = {daemon.status(key).pid for key in (first, second)}
            assert len(seen) == 2, "tenants never share a process"
            assert all(len(daemon.status(key).sessions) == 1 for key in (first, second))


def test_handles_are_freed_with_their_last_reference_and_with_the_session(daemon: RealDaemon) -> None:
    call = compile_for(daemon, torch.sin)
    kept = [call(torch.full((100_000,), float(i))) for i in range(5)]
    kept[-1][0].item()
    (session,) = daemon.status().sessions
    assert session.handles >= 5
    assert session.resident_nbytes >= 5 * 400_000
    copy.copy(kept[0])
    del kept
    call(torch.zeros(1)).item()  # the next message carries what died
    call(torch.zeros(1)).item()
    (session,) = daemon.status().sessions
    assert session.handles <= 3
    assert session.resident_nbytes < 400_000
    kept = [call(torch.ones(100_000))]
    kept[0][0].item()
    assert daemon.status().resident_nbytes >= 400_000
    dynamo_genie.shutdown()
    assert eventually(lambda: not daemon.status().sessions and daemon.status().resident_nbytes == 0)
    with pytest.raises(GenieError):
        kept[0].sum().item()


def test_lease_that_runs_out_frees_everything() -> None:
    with RealDaemon(grace_s=1.5) as daemon, Client(daemons=[daemon.endpoint]) as client:
        client.ask("big")
        status = daemon.status()
        assert status.resident_nbytes >= LAYERS * LAYER_NBYTES + 4_000_000
        os.kill(client.process.pid, signal.SIGSTOP)
        assert eventually(lambda: not daemon.status().sessions)
        assert eventually(lambda: daemon.status().resident_nbytes == daemon.status().weight_nbytes)
        os.kill(client.process.pid, signal.SIGCONT)
        client.process.kill()


def test_a_killed_client_leaves_nothing_but_its_weights() -> None:
    with RealDaemon(grace_s=1.5) as daemon, Client(daemons=[daemon.endpoint]) as client:
        client.ask("big")
        client.process.kill()
        assert eventually(lambda: not daemon.status().sessions)
        assert eventually(lambda: daemon.status().resident_nbytes == daemon.status().weight_nbytes)
