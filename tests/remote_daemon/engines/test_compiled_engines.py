"""Compilers in the background: calls run eager until they are through, then compiled, and give the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from dynamo_genie.engines import EAGER, INDUCTOR
from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.compiled import MAX_FORMS, CompiledInBackground
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.remote_daemon.engines.inductor import compile_with_inductor
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec

CPU = torch.device("cpu")
LIMIT_S = 240.0


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def program() -> p.Program:
    """X [n, 4], weight [4, 4], a number, y [n, 4] that is written; and a constant [4]."""
    constant = InlineTensor(TensorSpec("float32", (4,), (1,)), torch.arange(4.0).numpy().tobytes())
    nodes = (
        p.Node("aten.mm.default", (p.Ref(0), p.Ref(1))),  # 5
        p.Node("operator.add", (p.Ref(2), 1)),  # 6
        p.Node("aten.mul.Scalar", (p.Ref(5), p.Ref(6))),  # 7
        p.Node("aten.add.Tensor", (p.Ref(7), p.Ref(4))),  # 8
        p.Node("aten.split.Tensor", (p.Ref(8), 2, 1)),  # 9
        p.Node("getitem", (p.Ref(9), 1)),  # 10
        p.Node("aten.zeros.default", (p.Items((2,)),)),  # 11
        p.Node("aten.copy_.default", (p.Ref(3), p.Ref(8))),  # 12
    )
    inputs = (p.TensorInput(), p.TensorInput(), p.ScalarInput("int"), p.TensorInput())
    found = p.Program(
        p.PROGRAM_VERSION, inputs, (constant,), nodes, (p.Ref(8), p.Ref(10), p.Ref(11), p.Ref(6), p.Ref(12)), (3,)
    )
    p.validate_program(found)
    return found


def interpreted(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Take the place of a compiler: the graph itself."""
    return graph


class Engine:
    def __init__(self, compile_graph: Callable[..., Any], engine: str = INDUCTOR) -> None:
        constants = (torch.arange(4.0),)
        resolved = resolve_program(program(), CPU)
        self.eager = compile_program(resolved, constants)
        self.compiled = CompiledInBackground(resolved, constants, self.eager, compile_graph, Background("test-compile"))
        self.running = RunningProgram("p", self.eager, engine, "asked for", self.compiled, fell_back=False)

    def compare(self, rows: int = 2, factor: int = 2, *, exact: bool = True) -> None:
        x, weight, mine, right = torch.randn(rows, 4), torch.randn(4, 4), torch.zeros(rows, 4), torch.zeros(rows, 4)
        expected = self.eager([x, weight, factor, right])
        found = self.running([x, weight, factor, mine])
        for ours, theirs in zip((*found, mine), (*expected, right), strict=True):
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 0} if exact else {}))
            else:
                assert ours == theirs


def test_calls_run_eager_until_their_form_is_ready() -> None:
    asked, may_compile = threading.Event(), threading.Event()
    uses = 0

    def slow(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        asked.set()
        assert may_compile.wait(30)

        def run(*inputs: torch.Tensor) -> Any:
            nonlocal uses
            uses += 1
            return graph(*inputs)

        return run

    engine = Engine(slow)
    engine.compare()
    assert asked.wait(30)
    engine.compare()
    assert uses == 0
    may_compile.set()
    engine.compiled.wait(30)
    engine.compare()
    assert uses == 1
    assert engine.running.engine == INDUCTOR


def test_compiled_code_gets_no_tensor_that_stands_for_negatives() -> None:
    def reads_memory(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        return lambda *tensors: graph(*(-t if t.is_neg() else t for t in tensors))  # as generated code would

    engine = Engine(reads_memory)
    engine.compare()
    engine.compiled.wait(30)
    x = torch.randn(2, 4, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    weight = torch.randn(4, 4)
    expected = engine.eager([x, weight, 2, torch.zeros(2, 4)])[0]
    assert torch.equal(engine.running([x, weight, 2, torch.zeros(2, 4)])[0], expected)


def test_a_program_of_a_card_is_compiled_with_that_card_current(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda", 1)
    current: list[torch.device] = []
    found: list[Any] = []

    @contextmanager
    def entered(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def note(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        found.append((list(current), [tensor.device for tensor in inputs]))
        return graph

    monkeypatch.setattr(torch.cuda, "device", entered)
    nodes = (p.Node("aten.neg.default", (p.Ref(0),)),)
    resolved = resolve_program(p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), nodes, (p.Ref(1),)), card)
    compiled = CompiledInBackground(resolved, (), compile_program(resolved, ()), note, Background("test-compile"))
    compiled([torch.ones(2)])
    compiled.wait(30)
    assert found == [([card], [card])]


def test_each_signature_is_compiled_for_itself_up_to_a_number() -> None:
    compiled: list[tuple[int, ...]] = []

    def note(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        compiled.append(tuple(inputs[0].shape))
        return graph

    engine = Engine(note)
    for _ in range(2):
        for rows in range(1, MAX_FORMS + 4):
            engine.compare(rows)
        engine.compiled.wait(30)
    assert compiled == [(rows, 4) for rows in range(1, MAX_FORMS + 1)]


def test_numbers_of_a_call_are_part_of_its_form() -> None:
    engine = Engine(interpreted)
    for _ in range(3):
        for factor in (1, 2, 5):
            engine.compare(factor=factor)
        engine.compiled.wait(30)
    assert len(engine.compiled._forms) == 3


def test_a_compiler_that_fails_leaves_the_program_to_eager(caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler\nand more")

    engine = Engine(broken)
    engine.compare()
    engine.compiled.wait(30)
    engine.compare()
    engine.compare()
    assert (engine.running.engine, engine.running.fell_back) == (EAGER, True)
    assert caplog.text.count("it could not be compiled: RuntimeError: no C++ compiler") == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_inductor_gives_what_eager_gives_and_writes_in_place() -> None:
    engine = Engine(compile_with_inductor)
    engine.compare(exact=False)
    engine.compiled.wait(LIMIT_S)
    for _ in range(3):
        engine.compare(exact=False)
    assert (engine.running.engine, engine.running.fell_back) == (INDUCTOR, False)
