"""Uses a result, and writes down all that a program could see of it, step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.integration.compare import difference, plain
from tests.integration.every_method.cases import Case

Make = Callable[[Tensor], Tensor]

MODES: MappingProxyType[str, Callable[[], contextlib.AbstractContextManager[Any]]] = MappingProxyType(
    {"enable_grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
)


@dataclass
class Seen:
    """What each step showed, up to the one that raised."""

    steps: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    raised_in: str = ""


def observe(value: Any) -> Any:
    """A copy of a value that no later write can change, with what else shows of a tensor."""
    return tree_map(_observe_leaf, value)


def _observe_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        kind = type(leaf).__name__ if type(leaf).__name__ not in ("RemoteTensor", "Tangent") else "Tensor"
        shown = {"type": kind, "requires_grad": leaf.requires_grad, "is_leaf": leaf.is_leaf}
        if leaf.is_sparse or leaf.layout != torch.strided or leaf.is_nested:
            return {**shown, "layout": str(leaf.layout)}
        if leaf.is_quantized:
            return {**shown, "values": leaf.dequantize().tolist()}
        return {**shown, "inference": leaf.is_inference(), "values": plain(leaf).clone()}
    if isinstance(leaf, np.ndarray):
        return {"array": leaf.tolist(), "dtype": str(leaf.dtype), "writeable": leaf.flags.writeable}
    if isinstance(leaf, np.generic):
        return {"scalar": leaf.item(), "dtype": str(leaf.dtype)}
    if leaf is None or isinstance(leaf, bool | int | float | complex | str | bytes | torch.dtype):
        return leaf
    return type(leaf).__name__.replace("RemoteTensor", "Tensor")


@contextlib.contextmanager
def _step(seen: Seen, name: str) -> Iterator[dict[str, Any]]:
    """Record what is shown; an error ends the run of the case."""
    shown: dict[str, Any] = {}
    seen.raised_in = name
    yield shown
    seen.steps[name] = shown
    seen.raised_in = ""


def use(case: Case, mode: str, make: Make) -> Seen:
    """Apply a case to what `make` makes of its values, then write into all that came out of it."""
    seen = Seen()
    try:
        with MODES[mode]():
            _use(case, mode, make, seen)
    except Exception as error:  # noqa: BLE001 - whatever is raised is what the case shows
        seen.error = error
    return seen


def _use(case: Case, mode: str, make: Make, seen: Seen) -> None:
    source = case.values.clone()
    wants_grad = mode == "enable_grad" and (source.is_floating_point() or source.is_complex())
    source = source.requires_grad_() if wants_grad else source
    arguments, keywords = case.copy_arguments()
    with _step(seen, "made") as shown:
        torch.manual_seed(3)
        base = make(source)
        witness = base.detach()[...]
        shown["base"] = observe(base)
    with _step(seen, "called") as shown:
        out = case.call(base, *arguments, **keywords)
        shown["out"], shown["is base"] = observe(out), out is base
    with _step(seen, "afterwards") as shown:
        shown["base"], shown["witness"] = observe(base), observe(witness)
        shown["arguments"] = observe((arguments, keywords))
    leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
    if wants_grad:
        _differentiate(leaves, source, seen)
    for number, leaf in enumerate(leaves):
        with _step(seen, f"written through {number}") as shown:
            _write(leaf)
            shown["out"], shown["base"], shown["witness"] = observe(leaves), observe(base), observe(witness)
    if wants_grad and leaves:
        with _step(seen, "gradient after writes") as shown:
            shown["grad"] = observe(torch.autograd.grad(base.abs().sum(), source, allow_unused=True))


def _differentiate(leaves: list[Tensor], source: Tensor, seen: Seen) -> None:
    with _step(seen, "gradient") as shown:
        wanted = [leaf.abs().sum() for leaf in leaves if leaf.requires_grad]
        if wanted:
            shown["grad"] = observe(torch.autograd.grad(wanted, source, allow_unused=True, retain_graph=True))


def _write(leaf: Tensor) -> None:
    if leaf.dtype == torch.bool:
        leaf.logical_not_()
    else:
        leaf.mul_(2).add_(1)


def compiled(backend: Any) -> Make:
    """A compiled function whose result is the case's values, with code of its own for each shape."""
    known: dict[Any, Make] = {}

    def make(source: Tensor) -> Tensor:
        key = (source.dtype, source.shape, source.stride(), source.requires_grad, torch.is_inference_mode_enabled())
        if key not in known:
            known[key] = torch.compile(_fresh_code(), backend=backend, dynamic=False)
        return known[key](source)

    return make


def _fresh_code() -> Callable[[Tensor], Tensor]:
    """A function whose code object is its own: Dynamo counts recompilations of a code object."""
    return FunctionType(eager.__code__.replace(co_name="result"), globals())


class Watched(TorchDispatchMode):
    """Watches operators, also those that others are composed of; PyTorch has other formulas when it is watched."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            result = func.decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


def eager(source: Tensor) -> Tensor:
    """What the compiled function does."""
    return source.clone()


def disagreement(actual: Seen, expected: Seen) -> str | None:
    """The first step that shows something else than eager, in a line; None when there is none."""
    for name, shown in expected.steps.items():
        if name not in actual.steps:
            break
        found = difference(actual.steps[name], shown, where=name)
        if found is not None:
            return found
    if actual.error is None and expected.error is None:
        return None
    if actual.error is None:
        return f"{expected.raised_in}: eager raises {_line(expected.error)}, and here nothing was raised"
    if expected.error is None or not _same_class(actual.error, expected.error):
        wanted = "" if expected.error is None else f" where eager raises {_line(expected.error)}"
        return f"{actual.raised_in}: {_line(actual.error)}{wanted}"
    if actual.raised_in != expected.raised_in:
        return f"raises {_line(actual.error)} in '{actual.raised_in}', eager in '{expected.raised_in}'"
    return None


def _same_class(actual: Exception, expected: Exception) -> bool:
    return isinstance(actual, type(expected))


def _line(error: Exception | None) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
