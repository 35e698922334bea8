"""Models in files: what a worker says of them, and handles that are made from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.model_files.catalogue import Catalogue
from dynamo_genie.remote_daemon.model_files.models import MODELS_PER_ANSWER, Models
from dynamo_genie.remote_daemon.worker.state import WorkerState, open_state
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES
from tests.remote_daemon.model_files.written import write_file, write_shards
from tests.remote_daemon.worker_in_process import WorkerInProcess

A, B = torch.randn(30, 4), torch.arange(6)
LIMIT = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "m", {"model-1.safetensors": {"a": A}, "model-2.safetensors": {"b": B}})
    return tmp_path


def state_for(root: Path, limit: int = LIMIT) -> WorkerState:
    return open_state(HostBufferStore(), Offloader(limit), models=Models(Catalogue((root,))))


@pytest.fixture
def worker(root: Path) -> WorkerInProcess:
    return WorkerInProcess(state=state_for(root))


def answer(worker: WorkerInProcess, command: m.Command) -> Any:
    *_, reply = worker.send(command)
    return codec.worker_to_client(codec.encode(reply))


def failed(worker: WorkerInProcess, command: m.Command) -> tuple[str, str]:
    reply = answer(worker, command)
    assert isinstance(reply, m.Failed), reply
    return reply.error.kind, reply.error.message


def test_models_are_listed_and_described(worker: WorkerInProcess) -> None:
    listed = answer(worker, m.ListModels(1, 0))
    assert listed == m.ModelsListed(1, 1, (m.ModelSummary("m", 2, 2, 528, (("float32", 1), ("int64", 1))),))
    described = answer(worker, m.DescribeModel(2, "m", 0))
    tensors = m.ModelTensor("a", "float32", (30, 4)), m.ModelTensor("b", "int64", (6,))
    assert described == m.ModelDescribed(2, 2, tensors)
    assert answer(worker, m.DescribeModel(3, "m", 1)).tensors == tensors[1:]
    assert answer(worker, m.DescribeModel(4, "m", 1 << 61)).tensors == ()
    assert answer(worker, m.ListModels(5, 1 << 61)).models == ()


def test_long_lists_come_in_answers_that_fit_a_message(tmp_path: Path) -> None:
    names = [f"{'layer' * 200}.{count}" for count in range(2_000)]
    write_file(tmp_path / "long.safetensors", {name: torch.empty(0) for name in names})
    for count in range(MODELS_PER_ANSWER):
        write_file(tmp_path / f"{count:02}.safetensors", {})
    worker = WorkerInProcess(state=state_for(tmp_path))
    found: list[str] = []
    while len(found) < len(names):
        reply = answer(worker, m.DescribeModel(1, "long.safetensors", len(found)))
        assert len(codec.encode(reply)) < MAX_CONTROL_NBYTES
        found += [tensor.name for tensor in reply.tensors]
    assert found == names
    first, second = answer(worker, m.ListModels(1, 0)), answer(worker, m.ListModels(1, MODELS_PER_ANSWER))
    assert (len(first.models), len(second.models), first.total) == (MODELS_PER_ANSWER, 1, MODELS_PER_ANSWER + 1)


def test_handles_are_made_from_a_file(worker: WorkerInProcess) -> None:
    loaded = answer(worker, m.LoadWeights(1, (5, 6), "m", ("b", "a"), "float16"))
    assert isinstance(loaded, m.WeightsLoaded)
    assert [spec.dtype for spec in loaded.specs] == ["int64", "float16"]
    assert torch.equal(worker.value(5), B)
    assert torch.equal(worker.value(6), A.half())
    assert answer(worker, m.LoadWeights(2, (7,), "m", ("a",), "float16")).digests == loaded.digests[1:]
    assert worker.budget.used == B.nbytes + A.nbytes // 2
    worker.free([5, 6, 7])
    worker.state.weights.free_unused(lambda: False)
    assert worker.budget.used == 0


def test_what_is_loaded_again_is_not_read_again(worker: WorkerInProcess, root: Path) -> None:
    answer(worker, m.LoadWeights(1, (5,), "m", ("a",)))
    before = os.stat(root / "m" / "model-1.safetensors")
    with (root / "m" / "model-1.safetensors").open("r+b") as file:  # it would be noticed, were it read
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(root / "m" / "model-1.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    answer(worker, m.LoadWeights(2, (6,), "m", ("a",)))
    assert torch.equal(worker.value(6), A)


def test_a_content_that_is_wanted_again_is_that_or_an_error(worker: WorkerInProcess, root: Path) -> None:
    digest = answer(worker, m.LoadWeights(1, (5,), "m", ("a",))).digests[0]
    again = WorkerInProcess(state=state_for(root))
    assert again.send(m.LoadWeights(0, (5,), "m", ("a",), "", (digest,))) == []
    assert torch.equal(again.value(5), A)
    write_file(root / "m" / "model-1.safetensors", {"a": A + 1})
    other = WorkerInProcess(state=state_for(root))
    assert other.send(m.LoadWeights(0, (5,), "m", ("a",), "", (digest,))) == []
    late, reply = other.send(m.Fetch(3, (5,)))
    assert isinstance(late, m.LateFailures)
    assert isinstance(reply, m.Fetched)
    assert "its file was changed" in reply.tensors[0].message  # type: ignore[union-attr]
    assert other.budget.used == A.nbytes, "what was read stays for those who load it as it is now"
    other.state.weights.free_unused(lambda: False)
    assert other.budget.used == 0


def test_what_is_resident_is_had_again_though_its_file_is_gone(worker: WorkerInProcess, root: Path) -> None:
    digest = answer(worker, m.LoadWeights(1, (5,), "m", ("a",))).digests[0]
    (root / "m" / "model-1.safetensors").unlink()
    other = WorkerInProcess(state=worker.state)
    assert other.send(m.LoadWeights(0, (5,), "m", ("a",), "", (digest,))) == []
    assert torch.equal(other.value(5), A)


@pytest.mark.parametrize(
    ("command", "kind", "why"),
    [
        (m.LoadWeights(1, (5,), "x", ("a",)), "ModelFileError", "has no model 'x'"),
        (m.LoadWeights(1, (5,), "../m", ("a",)), "ModelFileError", "is no name of a model"),
        (m.LoadWeights(1, (5,), "m", ("x",)), "ModelFileError", "has no tensor 'x'"),
        (m.LoadWeights(1, (5,), "m", ("a",), "int8"), "ModelFileError", "not loaded as int8"),
        (m.LoadWeights(1, (5, 6), "m", ("a",)), "ProtocolError", "a tensor for each handle"),
        (m.LoadWeights(1, (5,), "m", ("a",), "", (b"d" * 16,) * 2), "ProtocolError", "all digests or none"),
        (m.LoadWeights(1, (5,), "m", ("a",), "", (b"d" * 16,)), "NotRecoverable", "is not what it was"),
        (m.LoadWeights(1, (5, 5), "m", ("a", "b")), "ProtocolError", "handle 5 is in use already"),
        (m.LoadWeights(1, (0,), "m", ("a",)), "ProtocolError", "handle 0 is in use already"),
        (m.DescribeModel(1, "x", 0), "ModelFileError", "has no model 'x'"),
    ],
    ids=range(10),
)
def test_what_cannot_be_is_an_error_and_keeps_nothing(
    worker: WorkerInProcess, command: m.Command, kind: str, why: str
) -> None:
    found_kind, message = failed(worker, command)
    assert found_kind == kind
    assert why in message
    worker.free([5, 6])
    worker.state.weights.free_unused(lambda: False)
    assert worker.budget.used == 0


def test_what_does_not_fit_poisons_what_it_should_have_made(root: Path) -> None:
    worker = WorkerInProcess(state=state_for(root, limit=B.nbytes + 8))
    kind, message = failed(worker, m.LoadWeights(1, (5, 6), "m", ("b", "a")))
    assert (kind, "a weight needs 480 bytes" in message) == ("QuotaExceeded", True)
    assert torch.equal(worker.value(5), B)
    assert failed(worker, m.Describe(2, (6,)))[0] == "QuotaExceeded"
