"""Which engine a program gets, from what was asked for, its traits and the device; and what the client hears of it."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.engines import AUTO, CUDAGRAPHS, EAGER, ENGINES, INDUCTOR, TENSORRT
from dynamo_genie.remote_daemon.engines.choice import choose
from dynamo_genie.remote_daemon.engines.report import engine_statuses
from dynamo_genie.remote_daemon.engines.tensorrt import compile_with_tensorrt, tensorrt_missing
from dynamo_genie.remote_daemon.engines.traits import Traits, traits_of
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.worker_in_process import WorkerInProcess

CPU = torch.device("cpu")


def traits(**changes: object) -> Traits:
    plain: dict[str, object] = {
        "phase": "decode", "grows": False, "reads_data": "", "random": False, "mutated": frozenset(),
        "resident": frozenset(), "nodes": 100,
    }  # fmt: skip
    return Traits(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "engine", "why"),
    [
        ({}, CUDAGRAPHS, "static shapes"),
        ({"phase": "prefill"}, EAGER, "prefill keeps the device busy"),
        ({"phase": ""}, EAGER, "no phase is known"),
        ({"grows": True}, CUDAGRAPHS, "caches that grow in arenas"),
        ({"grows": True, "growth": "it attends with a mask"}, EAGER, "it attends with a mask; a Static cache"),
        ({"random": True}, EAGER, "random numbers"),
        ({"reads_data": "aten.nonzero.default"}, EAGER, "aten.nonzero.default waits"),
        ({"nodes": 3}, EAGER, "only 3 operators"),
    ],
)
def test_auto_takes_recorded_graphs_for_decode_whose_shapes_stay(
    changes: dict[str, object], engine: str, why: str
) -> None:
    found = choose(AUTO, traits(**changes), "cuda")
    assert (found.engine, found.refused) == (engine, False)
    assert why in found.reason


def test_auto_on_a_cpu_is_eager_and_no_fallback() -> None:
    found = choose(AUTO, traits(), "cpu")
    assert (found.engine, found.refused) == (EAGER, False)


@pytest.mark.parametrize(
    ("wanted", "device", "missing", "changes", "why"),
    [
        (CUDAGRAPHS, "cpu", "", {}, "CUDA graphs need a CUDA device, and this one is cpu"),
        (CUDAGRAPHS, "cuda", "", {"grows": True, "growth": "they are read otherwise"}, "its caches grow by `cat`"),
        (INDUCTOR, "cpu", "", {"random": True}, "others than eager PyTorch draws"),
        (INDUCTOR, "cpu", "", {"default_dtype": "float64"}, "its default dtype is float64"),
        (TENSORRT, "cuda", "torch-tensorrt is not installed", {}, "torch-tensorrt is not installed"),
        (TENSORRT, "cpu", "", {}, "TensorRT needs a CUDA device"),
        (TENSORRT, "cuda", "", {"mutated": frozenset({1})}, "it writes into its inputs"),
    ],
)
def test_what_was_asked_for_and_does_not_fit_is_refused_with_the_reason(
    wanted: str, device: str, missing: str, changes: dict[str, object], why: str
) -> None:
    found = choose(wanted, traits(**changes), device, missing)
    assert (found.engine, found.refused) == (EAGER, True)
    assert found.reason.startswith(f"{wanted} was asked for, but ")
    assert why in found.reason


@pytest.mark.parametrize(("wanted", "device"), [(CUDAGRAPHS, "cuda"), (INDUCTOR, "cpu"), (TENSORRT, "cuda")])
def test_what_was_asked_for_and_fits_is_taken_whatever_the_phase(wanted: str, device: str) -> None:
    assert choose(wanted, traits(phase=""), device).engine == wanted


def test_traits_come_from_the_text_and_the_facts_of_a_program() -> None:
    weight, step = p.ValueFacts(role="weight"), p.ValueFacts(phase="decode")
    nodes = (p.Node("aten.mm.default", (p.Ref(0), p.Ref(1))), p.Node("aten.nonzero.default", (p.Ref(3),)))
    inputs = (p.TensorInput(), p.TensorInput(), p.ScalarInput("int"))
    program = p.Program(
        p.PROGRAM_VERSION, inputs, (), nodes, (p.Ref(4),), (1,), facts=(weight, step), fact_of=(0, 1, 1, 1, 1)
    )
    found = traits_of(resolve_program(program, CPU))
    assert found.phase == "decode"
    assert found.reads_data == "aten.nonzero.default"
    assert found.resident == {0, 1}
    assert (found.nodes, found.mutated) == (2, {1})


def test_indexing_may_be_recorded() -> None:
    nodes = (p.Node("aten.index.Tensor", (p.Ref(0), p.Items((p.Ref(1),)))),)
    program = p.Program(p.PROGRAM_VERSION, (p.TensorInput(),) * 2, (), nodes, (p.Ref(2),))
    assert not traits_of(resolve_program(program, CPU)).reads_data


def test_experts_whose_rows_the_data_tells_are_known_to_read_it() -> None:
    inputs = (p.TensorInput("float32", 2), p.TensorInput("float32", 3), p.TensorInput("int32", 1))
    nodes = (p.Node("genie.grouped_mm", (p.Ref(0), p.Ref(1), p.Ref(2))),)
    program = p.Program(p.PROGRAM_VERSION, inputs, (), nodes, (p.Ref(3),))
    assert traits_of(resolve_program(program, CPU)).reads_data == "genie.grouped_mm"


def test_tensorrt_is_named_with_what_to_install_where_it_is_absent() -> None:
    if not tensorrt_missing():
        pytest.skip("torch-tensorrt is installed here")
    assert "pip install torch-tensorrt" in tensorrt_missing()
    with pytest.raises(ImportError, match="torch_tensorrt"):
        compile_with_tensorrt(torch.fx.symbolic_trace(torch.nn.ReLU()), [torch.ones(2)])


def negation() -> p.Program:
    return p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.neg.default", (p.Ref(0),)),), (p.Ref(1),))


def register(worker: WorkerInProcess, number: int, engine: str) -> list[m.WorkerToClient]:
    encoded = p.encode_program(negation())
    return worker.send(m.RegisterProgram(number, p.program_digest(encoded), encoded, 0, engine))


def test_a_client_hears_once_that_its_engine_could_not_be_had() -> None:
    worker = WorkerInProcess()
    [news] = register(worker, 1, TENSORRT)
    assert isinstance(news, m.EngineFellBack)
    assert news.program == 1
    assert "tensorrt was asked for, but" in news.reason
    x = worker.put(torch.ones(2))
    assert worker.send(m.Call(1, 0, (x,), (50,))) == []
    assert worker.value(50).tolist() == [-1.0, -1.0]
    assert register(worker, 2, AUTO) == []


def test_inspection_and_status_say_what_runs_each_program_and_why() -> None:
    worker = WorkerInProcess()
    register(worker, 1, AUTO)
    register(worker, 2, CUDAGRAPHS)
    x = worker.put(torch.ones(2))
    worker.send(m.Call(1, 0, (x,), (50,)), m.Call(1, 0, (x,), (51,)))
    [found] = worker.send(m.Inspect(1, engines=True))
    assert isinstance(found, m.Inspection)
    assert [(number, engine) for number, engine, _ in found.engines] == [(1, EAGER), (2, EAGER)]
    assert "CUDA graphs need a CUDA device" in found.engines[1][2]
    statuses = engine_statuses(worker.programs.running())
    assert [(s.engine, s.programs, s.calls) for s in statuses] == [(EAGER, 1, 2), (EAGER, 1, 0)]


def test_an_engine_that_does_not_exist_is_refused() -> None:
    worker = WorkerInProcess()
    register(worker, 1, "warp")
    news, reply = worker.send(m.Sync(1))
    assert isinstance(news, m.LateFailures)
    assert isinstance(reply, m.Done)
    assert "there is no engine 'warp'; there are auto, eager" in news.errors[0].message
    assert set(ENGINES) >= {AUTO, EAGER, INDUCTOR, CUDAGRAPHS, TENSORRT}
