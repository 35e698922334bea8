"""CUDA graphs without CUDA: records the operators that a function runs, and replays them on the very same tensors.

As on a device, recording changes nothing, a replay reads and writes fixed memory, and results are overwritten by the
next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class _Step:
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


class _Tape(TorchDispatchMode):
    """Notes each operator, and undoes in the end what they wrote to memory that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in function.tags:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for formal, value in zip(function._schema.arguments, args, strict=False):
            if formal.alias_info is not None and formal.alias_info.is_write and isinstance(value, torch.Tensor):
                self._before.setdefault(value.untyped_storage()._cdata, (value, value.clone()))
        result = function(*args, **kwargs)
        self.steps.append(_Step(function, tuple(args), dict(kwargs), result))
        return result

    def undo(self) -> None:
        for tensor, value in self._before.values():
            tensor.copy_(value)


class TapeRecorder:
    """A `Recorder` for host memory; counts what it did.

    It finds too little memory as often as `too_little` says; where it `fails`, the device is lost after a replay.
    """

    def __init__(self, device: torch.device) -> None:
        self.recordings = 0
        self.replays = 0
        self.too_little = 0
        self.fails = False

    def record(self, run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
        if self.too_little:
            self.too_little -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        tape = _Tape()
        try:
            with tape:
                results = run()
        finally:
            tape.undo()
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            for step in tape.steps:
                _again(step)
            if self.fails:
                raise RuntimeError("the device was lost")

        return replay, results


def _again(step: _Step) -> None:
    """Run an operator again and let its results take the place of the first ones, as a kernel would."""
    shared = {leaf.untyped_storage()._cdata for leaf in tree_leaves((step.args, step.kwargs)) if _is_tensor(leaf)}
    found = step.function(*step.args, **step.kwargs)
    for old, new in zip(tree_leaves(step.result), tree_leaves(found), strict=True):
        if _is_tensor(old) and old.untyped_storage()._cdata not in shared:
            old.copy_(new)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
