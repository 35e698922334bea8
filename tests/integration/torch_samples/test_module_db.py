"""PyTorch's own module samples through the backend, against eager, bit by bit: forward and backward, train and eval.

The table counts modules, in training and in evaluation. By hand, for some modules, and for every sample:

    GENIE_TEST_MODULE_DB="nn.GRU" python -m pytest tests/integration/torch_samples/test_module_db.py -m slow -s
    GENIE_TEST_ALL_SAMPLES=1 python -m pytest tests/integration/torch_samples/test_module_db.py -m slow -s
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_leaves, tree_map

from tests.integration.torch_samples.table import ALL, Attempt, assert_like_eager, first_failure

SAMPLES = 3
SHARE = 0.99

KNOWN_DIFFERENCES: dict[str, str] = {}
"""Module and mode, as the table prints them, to the reason why the backend may differ from eager there."""


@dataclass(frozen=True)
class Entry:
    """A module's samples, in training or in evaluation."""

    info: Any
    training: bool

    @property
    def name(self) -> str:
        return f"{self.info.name}:{'train' if self.training else 'eval'}"

    def samples(self) -> Iterator[Any]:
        """Some samples, spread over all that there are: neighbours differ little."""
        torch.manual_seed(0)
        found = self.info.module_inputs_func(
            self.info, device="cpu", dtype=torch.float32, requires_grad=True, training=self.training
        )
        usable = [sample for sample in found if sample.forward_input is not None]
        yield from usable if ALL else usable[:: max(1, len(usable) // SAMPLES)][:SAMPLES]


def selected_modules() -> list[Any]:
    names = {name.strip() for name in os.environ.get("GENIE_TEST_MODULE_DB", "").split(",") if name.strip()}
    unknown = names - {info.name for info in module_db}
    assert not unknown, f"GENIE_TEST_MODULE_DB names modules that module_db lacks: {sorted(unknown)}"
    return [info for info in module_db if not names or info.name in names]


def attempts(entry: Entry) -> Iterator[Attempt]:
    for sample in entry.samples():
        yield partial(_attempt, entry, sample)


def _attempt(entry: Entry, sample: Any, backend: Any) -> dict[str, Any]:
    module = build(entry, sample)
    return run(module, sample, module if backend is None else torch.compile(module, backend=backend))


def build(entry: Entry, sample: Any) -> nn.Module:
    """The module with its weights, which a lazy one gets from its first input."""
    torch.manual_seed(5)
    built = sample.constructor_input
    module: nn.Module = entry.info.module_cls(*built.args, **built.kwargs).to(torch.float32).train(entry.training)
    if entry.info.is_lazy:
        arguments, keywords = _copy_inputs(sample)
        module(*arguments, **keywords)
    return module


def run(module: nn.Module, sample: Any, call: Callable[..., Any]) -> dict[str, Any]:
    """All that can be seen after a forward and a backward: results, gradients, buffers, the generator."""
    arguments, keywords = _copy_inputs(sample)
    torch.manual_seed(1234)
    result = call(*arguments, **keywords)
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
    torch.autograd.backward(outputs, [_tangent(output) for output in outputs])
    inputs = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
    return {
        "result": result,
        "gradients of inputs": [leaf.grad for leaf in inputs],
        "gradients of parameters": {name: parameter.grad for name, parameter in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
        "generator": torch.get_rng_state(),
    }


def _copy_inputs(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs = (tuple(sample.forward_input.args), dict(sample.forward_input.kwargs))
    copied: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(_copy, inputs)
    return copied


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return copy.deepcopy(value.detach()).requires_grad_(value.requires_grad)


def _tangent(output: Tensor) -> Tensor:
    """Numbers that tell elements apart, and take nothing of the generator."""
    return (
        torch.linspace(-1, 1, max(output.numel(), 1), dtype=output.dtype)[: output.numel()]
        .view(output.shape)
        .to(output.device)
    )


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_module_samples_equal_eager(training: bool, backend: Any) -> None:
    entries = [Entry(info, training) for info in selected_modules()]
    named = {entry.name: attempts(entry) for entry in entries}
    assert len(named) == len(entries)
    assert_like_eager(named, backend, share=SHARE, known=KNOWN_DIFFERENCES)


def test_the_harness_sees_a_backend_that_is_wrong() -> None:
    def off_by_one(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        return lambda *args: tuple(out + 1 for out in gm(*args))

    def forgets_gradients(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        return lambda *args: tuple(out + 0 * out.sum() - 0 * out.sum() + (out.detach() - out) for out in gm(*args))

    entry = Entry(next(info for info in module_db if info.name == "nn.Linear"), training=True)
    assert first_failure(attempts(entry), "eager") is None
    assert "result['result']" in (first_failure(attempts(entry), off_by_one) or "")
    assert "gradients" in (first_failure(attempts(entry), forgets_gradients) or "")
