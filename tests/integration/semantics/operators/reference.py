"""Comparison with `aot_eager`, which runs the same graphs here: results, arguments, gradients and the generator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.integration.compare import plain, read, same


def outcome(backend: Any, function: Callable[..., Any], arguments: tuple[Any, ...], *, grad: bool, calls: int) -> Any:
    """What calls of a function, compiled from nothing, leave behind; a module starts from equal parameters."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    own = copy.deepcopy(function) if isinstance(function, nn.Module) else function
    copies = copy.deepcopy(arguments)
    floating = [it for it in copies if isinstance(it, Tensor) and it.is_floating_point()]
    for tensor in floating if grad else ():
        tensor.requires_grad_()
    compiled = torch.compile(own, backend=backend)
    results = []
    for _ in range(calls):
        with torch.set_grad_enabled(grad):
            result = compiled(*copies)
        if grad:
            sum(
                leaf.sum() for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad
            ).backward()
        results.append(read(result))
    parameters = list(own.parameters()) if isinstance(own, nn.Module) else []
    gradients = [None if it.grad is None else plain(it.grad) for it in [*floating, *parameters]]
    buffers = [plain(it) for it in own.buffers()] if isinstance(own, nn.Module) else []
    return results, read(copies), gradients, buffers, torch.get_rng_state()


def assert_like_aot_eager(
    backend: Any, function: Callable[..., Any], *arguments: Any, grad: bool = False, calls: int = 2
) -> None:
    """Asserts that a function, or a module, leaves behind what it does under `aot_eager`, bit by bit."""
    expected = outcome("aot_eager", function, arguments, grad=grad, calls=calls)
    same(outcome(backend, function, arguments, grad=grad, calls=calls), expected)
