"""PyTorch's own optimizer samples through the backend, against eager, bit by bit, for several steps.

Each sample runs in two ways, as programs do: the optimizer's `step` compiled, and an ordinary `step` on the gradients
of a compiled model. By hand, for some optimizers, and for every sample in place of the first few:

    GENIE_TEST_OPTIM_DB="Adam,SGD" python -m pytest tests/integration/torch_samples/test_optim_db.py -m slow -s
    GENIE_TEST_ALL_SAMPLES=1 python -m pytest tests/integration/torch_samples/test_optim_db.py -m slow -s
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_optimizers import optim_db
from torch.utils._pytree import tree_leaves

from tests.integration.torch_samples.table import ALL, assert_like_eager, first, first_failure

STEPS = 3
SAMPLES = 3
SHARE = 0.99

COMPILED_STEP = "compiled step"
COMPILED_MODEL = "compiled model"

KNOWN_DIFFERENCES: dict[str, str] = {}
"""Entries, as the table prints them, to the reason why the backend may differ from eager there."""


@dataclass(frozen=True)
class Entry:
    """An optimizer with some of its arguments, and what of the training is compiled."""

    info: Any
    label: str
    way: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.info.name}({self.label}): {self.way}"


def selected_optimizers() -> list[Any]:
    names = {name.strip() for name in os.environ.get("GENIE_TEST_OPTIM_DB", "").split(",") if name.strip()}
    unknown = names - {info.name for info in optim_db}
    assert not unknown, f"GENIE_TEST_OPTIM_DB names optimizers that optim_db lacks: {sorted(unknown)}"
    return [info for info in optim_db if not names or info.name in names]


def entries() -> Iterator[Entry]:
    """Some samples of each optimizer with its step compiled; the first with every implementation, and in both ways."""
    for info in selected_optimizers():
        samples = info.optim_inputs_func(device="cpu", dtype=torch.float32)
        for number, sample in enumerate(first(samples, SAMPLES)):
            of_its_own = [flag for flag in info.supported_impls if flag != "differentiable"]
            for implementation in (None, *of_its_own) if ALL or number == 0 else (None,):
                arguments = {**sample.kwargs, **({implementation: True} if implementation else {})}
                label = ", ".join(filter(None, (f"{number} {sample.desc}", implementation)))
                yield Entry(info, label, COMPILED_STEP, arguments)
                if ALL or number == 0:
                    yield Entry(info, label, COMPILED_MODEL, arguments)


class Model(nn.Module):
    """A weight that is looked up and matrices: what each kind of optimizer takes, down to sparse gradients only."""

    def __init__(self, sparse: bool, matrices_only: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4, sparse=sparse)
        self.layer = None if sparse else nn.Linear(4, 3, bias=not matrices_only)

    def forward(self, ids: Tensor) -> Tensor:
        embedded = self.embedding(ids)
        return (embedded if self.layer is None else self.layer(embedded).tanh()).square().mean()


def train(entry: Entry, backend: Any, device: str = "cpu") -> dict[str, Any]:
    """All that can be seen after some steps: losses, weights, and what the optimizer remembers."""
    torch.manual_seed(7)
    info = entry.info
    model = Model(info.only_supports_sparse_grads, matrices_only=info.name == "Muon").to(device)
    optimizer = info.optim_cls(model.parameters(), **_arguments(entry))
    call, step = model, optimizer.step
    if backend is not None and entry.way == COMPILED_MODEL:
        call = torch.compile(model, backend=backend)
    if backend is not None and entry.way == COMPILED_STEP:
        step = torch.compile(optimizer.step, backend=backend)
    losses = []
    for number in range(STEPS):
        ids = torch.tensor([[0, 1, 2], [3, 5, number]]).to(device)

        def closure(ids: Tensor = ids) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = call(ids)
            loss.backward()
            return loss

        if info.step_requires_closure:
            losses.append(step(closure))
        else:
            losses.append(closure())
            step()
    return {
        "losses": losses,
        "weights": dict(model.named_parameters()),
        "state": [tree_leaves(state) for state in optimizer.state_dict()["state"].values()],
        "groups": [tree_leaves({**group, "params": None}) for group in optimizer.state_dict()["param_groups"]],
    }


def _arguments(entry: Entry) -> dict[str, Any]:
    """The arguments with tensors of this run's own: a learning rate may be one, and is written."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.arguments.items()}


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_optimizer_samples_equal_eager(backend: Any) -> None:
    found = list(entries())
    named = {entry.name: [partial(train, entry)] for entry in found}
    assert len(named) == len(found)
    assert_like_eager(named, backend, share=SHARE, known=KNOWN_DIFFERENCES)


def test_the_harness_sees_a_backend_that_is_wrong() -> None:
    def off_by_one(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        return lambda *args: tuple(out + 1 for out in gm(*args))

    entry = next(entry for entry in entries() if entry.info.name == "SGD" and entry.way == COMPILED_MODEL)
    assert first_failure([partial(train, entry)], "eager") is None
    assert "losses" in (first_failure([partial(train, entry)], off_by_one) or "")
