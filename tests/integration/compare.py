"""Bitwise comparison of nested results. Knows nothing of any backend: it only reads tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def plain(tensor: Tensor) -> Tensor:
    """The same values in an ordinary local tensor; a tensor that is ordinary already is returned as it is."""
    tensor = tensor.detach()
    if type(tensor) in _PLAIN:
        return tensor
    repeated = [stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    if any(repeated):  # expanded: what is repeated is read once
        return plain(tensor[tuple(slice(0, 1) if again else slice(None) for again in repeated)]).expand(tensor.shape)
    local = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return local.copy_(tensor)


def same(actual: Any, expected: Any) -> None:
    """Asserts that both hold the same structure, and tensors of equal dtype, shape, strides and bits."""
    found = difference(actual, expected)
    assert found is None, found


def difference(actual: Any, expected: Any, where: str = "result") -> str | None:
    """The first difference in words, or None. NaNs of any payload are equal; -0.0 and 0.0 are not."""
    if isinstance(expected, Tensor):
        if not isinstance(actual, Tensor):
            return f"{where}: {type(actual).__name__} where a tensor was expected"
        return _tensor_difference(actual, expected, where)
    if is_dataclass(expected) and not isinstance(expected, type | Mapping):
        pairs = [(f".{f.name}", getattr(actual, f.name), getattr(expected, f.name)) for f in fields(expected)]
        return _first_difference(pairs, where)
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or list(actual) != list(expected):
            return f"{where}: keys differ: {actual!r:.80} and {list(expected)}"
        return _first_difference([(f"[{k!r}]", actual[k], expected[k]) for k in expected], where)
    if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        if not isinstance(actual, Sequence) or len(actual) != len(expected):
            return f"{where}: {actual!r:.80} is not a sequence of {len(expected)}"
        return _first_difference(
            [(f"[{i}]", a, e) for i, (a, e) in enumerate(zip(actual, expected, strict=True))], where
        )
    if isinstance(expected, float) and expected != expected and actual != actual:
        return None
    return None if actual == expected else f"{where}: {actual!r:.80} and {expected!r:.80} differ"


def _first_difference(pairs: list[tuple[str, Any, Any]], where: str) -> str | None:
    found = (difference(actual, expected, where + step) for step, actual, expected in pairs)
    return next((text for text in found if text is not None), None)


def _tensor_difference(actual: Tensor, expected: Tensor, where: str) -> str | None:
    for name in ("dtype", "shape", "layout"):
        if getattr(actual, name) != getattr(expected, name):
            return f"{where}: {name} {getattr(actual, name)}, expected {getattr(expected, name)}"
    if expected.layout != torch.strided:
        return _tensor_difference(plain(actual).to_dense(), expected.to_dense(), where)
    if _meaningful_strides(actual) != _meaningful_strides(expected):
        return f"{where}: strides {actual.stride()}, expected {expected.stride()} at shape {tuple(actual.shape)}"
    unequal = ~_equal_bits(plain(actual), plain(expected))
    if not unequal.any():
        return None
    index = tuple(unequal.nonzero()[0].tolist())
    count, of = int(unequal.sum()), unequal.numel()
    values = f"{plain(actual)[index].item()!r}, expected {plain(expected)[index].item()!r}"
    return f"{where}: {count} of {of} values differ, the first at {index}: {values}"


def _meaningful_strides(tensor: Tensor) -> list[int]:
    """Strides that address something: those of an empty tensor, or of an extent of 1, are never used."""
    if tensor.numel() == 0:
        return []
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _equal_bits(actual: Tensor, expected: Tensor) -> Tensor:
    if actual.is_complex():
        real, imaginary = (torch.view_as_real(t.resolve_conj()) for t in (actual, expected))
        return _equal_bits(real, imaginary).all(-1)
    actual, expected = actual.resolve_neg(), expected.resolve_neg()
    bits = _BITS[expected.element_size()]
    equal = actual.contiguous().view(bits) == expected.contiguous().view(bits)
    if expected.is_floating_point() and expected.element_size() > 1:
        equal |= actual.isnan() & expected.isnan()
    return equal


def read(result: Any) -> Any:
    """Makes every tensor of a nested result local, so that an error of a lazy computation comes up here."""
    return tree_map(lambda leaf: plain(leaf) if isinstance(leaf, Tensor) else leaf, result)


def assert_like_eager(
    compiled: Callable[..., Any],
    function: Callable[..., Any],
    *arguments: Any,
    after: Callable[[Any, Any], object] | None = None,
    calls: int = 2,
) -> None:
    """Runs `function` in eager and compiled on equal copies; results, arguments and generator must end equal.

    Args:
        compiled: the fixture of that name, or any other way to compile a function.
        function: what to run; arguments that share memory share it in the copies too.
        after: what the caller does with `(result, arguments)` before they are compared, such as a write.
        calls: how often to run: the first call compiles, the next ones reuse.
    """
    call = compiled(function)
    for number in range(calls):
        outcomes = []
        for way in (function, call):
            copies = copy.deepcopy(arguments)
            torch.manual_seed(number)
            result = way(*copies)
            if after is not None:
                after(result, copies)
            outcomes.append((result, copies, torch.get_rng_state()))
        same(outcomes[1], outcomes[0])
