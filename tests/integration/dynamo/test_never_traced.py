"""Dynamo compiles the program, and looks at no frame of ours: wherever a graph breaks, whatever calls our code."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dynamo_genie
from dynamo_genie.tensor.remote_tensor import RemoteTensor, Tangent
from dynamo_genie.torch_internals.compile_context import clear_counters, graph_breaks
from dynamo_genie.torch_internals.opaque import frames_seen
from tests.integration.compare import same
from tests.integration.conftest import Compile

ROOT = Path(dynamo_genie.__file__).parent
OWN = tuple(
    str(folder)
    for name in ("", "passes", "runtime", "remote_daemon")
    for folder in {ROOT / name, (ROOT / name).resolve()}
)

WITHOUT_TENSORS = {"__getattr__"}
"""The package's own lookup of names: seen and, as all frames without tensors, left alone."""

uncompiled = torch.compiler.disable(recursive=False)
"""Runs a function as it is, while Dynamo looks at what the function calls."""


def own_frames() -> set[tuple[str, str]]:
    return {(file, name) for file, name in frames_seen() if file.startswith(OWN) and name not in WITHOUT_TENSORS}


@uncompiled
def read_everything(result: Tensor) -> list[Any]:
    """Every way of reading a result, by a function that is not compiled itself."""
    total = result.sum()
    return [
        result.tolist(), total.item(), float(total), int(total), bool(total > 0), len(result), f"{total:.3f}",
        repr(result), result.detach().numpy().tolist(), np.asarray(result.detach()).sum().item(),
        [row.tolist() for row in result], copy.deepcopy(result.detach()).tolist(),
        pickle.loads(pickle.dumps(result.detach())).tolist(),
        torch.equal(result, result), torch.allclose(result, result), result.nbytes,
    ]  # fmt: skip


@uncompiled
def operate(result: Tensor) -> list[Tensor]:
    """Operators, views and writes, by a function that is not compiled itself."""
    mine = result.detach().clone()
    mine.add_(1)
    mine[0] = 5
    mine.t()[0].mul_(2)
    local = torch.zeros_like(mine, device="cpu")
    local.copy_(mine)
    return [mine, local, mine @ mine.t(), mine.to(torch.float64), torch.stack([mine, mine]), mine.nonzero()]


def reads(x: Tensor) -> list[Any]:
    result = x.sin()
    found = read_everything(result)
    return [*found, (result * 2).tolist()]


def operates(x: Tensor) -> list[Tensor]:
    return [*operate(x.sin()), x.cos()]


def breaks_at_each_read(x: Tensor) -> list[Any]:
    result = x.sin()
    total = result.sum()
    listed = result.tolist()
    number = total.item()
    text = repr(result)
    array = result.numpy() + 1
    return [listed, number, text, array.tolist(), torch.from_numpy(array) * result, f"{total:.3f}", result + 1]


@uncompiled
def read_elements(result: Tensor) -> list[Any]:
    """Elements and rows, the first of which fetches all; rows die as they are read."""
    return [result[i, i].item() + float(result[-1, 0]) + result[i].sum().item() for i in range(4)]


def reads_elements(x: Tensor) -> list[Any]:
    return [*read_elements(x.sin()), x.cos()]


def takes_arrays(x: Tensor) -> list[Any]:
    array = x.numpy()
    doubled = np.add(array, array)
    torch._dynamo.graph_break()
    return [doubled.tolist(), np.linalg.norm(doubled).item(), torch.as_tensor(doubled) @ x.t()]


def differentiates(x: Tensor) -> list[Any]:
    seen: list[float] = []
    weight = torch.full((8, 3), 0.5, requires_grad=True)
    hidden = (x @ weight).tanh()
    torch._dynamo.graph_break()
    hidden.register_hook(lambda gradient: seen.append(gradient.sum().item()))
    [gradient] = torch.autograd.grad(hidden.pow(2).sum(), weight, retain_graph=True)
    hidden.sum().backward()
    return [gradient, uncompiled(lambda: weight.grad)(), seen]


PROGRAMS: list[Callable[[Tensor], list[Any]]] = [
    reads, reads_elements, operates, breaks_at_each_read, takes_arrays, differentiates,
]  # fmt: skip


def run(program: Callable[[Tensor], list[Any]], backend: Any) -> tuple[list[list[Any]], int]:
    torch._dynamo.reset()
    clear_counters()
    torch.manual_seed(0)
    inputs = [torch.randn(4, 8) for _ in range(3)]
    compiled = torch.compile(program, backend=backend)
    results = [compiled(value) for value in inputs]
    return results, sum(graph_breaks().values())


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_graphs_break_around_our_code_and_never_in_it(program: Callable[[Tensor], list[Any]], backend: Any) -> None:
    expected, breaks = run(program, "aot_eager")
    actual, ours = run(program, backend)
    assert own_frames() == set()
    assert ours == breaks
    same(actual, expected)


def test_a_whole_training_step_compiles_as_it_does_elsewhere(backend: Any) -> None:
    def train(backend: Any) -> tuple[list[Any], int, list[str]]:
        torch._dynamo.reset()
        clear_counters()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        @torch.compile(backend=backend)
        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        losses = [step(torch.randn(5, 8), torch.randn(5, 2)) for _ in range(4)]
        compiled = [name for file, name in frames_seen() if file == __file__ or "optim" in file]
        state = [*model.state_dict().values(), *[s["momentum_buffer"] for s in optimizer.state.values()]]
        return [*[loss.detach() for loss in losses], *state], sum(graph_breaks().values()), compiled

    expected, breaks, frames = train("aot_eager")
    actual, ours, own = train(backend)
    assert own_frames() == set()
    assert (ours, own) == (breaks, frames)
    same(actual, expected)


def test_the_functions_beside_the_backend_break_graphs_too(compiled: Compile) -> None:
    model = nn.Linear(8, 2)

    @compiled
    def program(x: Tensor) -> tuple[Tensor, int]:
        hidden = model(x)
        dynamo_genie.connect()
        dynamo_genie.refresh(model)
        before = dynamo_genie.stats()["total"]["fetches"]
        total = hidden.sum()
        total.item()
        return total, dynamo_genie.stats()["total"]["fetches"] - before

    x = torch.randn(4, 8)
    with torch.no_grad():
        total, fetches = program(x)
        assert (total.item(), fetches) == (model(x).sum().item(), 1)
    assert own_frames() == set()


@pytest.mark.parametrize("cls", [RemoteTensor, Tangent])
def test_everything_that_a_remote_tensor_defines_is_hidden(cls: type[Tensor]) -> None:
    for name, member in vars(cls).items():
        functions = [member.fget] if isinstance(member, property) else [getattr(member, "__func__", member)]
        for function in functions:
            if name not in {"__new__", "run_operator"} and hasattr(function, "__code__"):
                hidden = getattr(function, "_torchdynamo_disable", False) or hasattr(function, "genie_unseen")
                assert hidden, f"{cls.__name__}.{name} can be traced"
