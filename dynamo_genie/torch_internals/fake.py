"""Fake tensors: shapes, strides and dtypes without elements."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    unset_fake_temporarily,
)
from torch._subclasses.meta_utils import MetaTensorDescriber

from dynamo_genie.torch_internals.opaque import caller_past_opaque, unseen
from dynamo_genie.torch_internals.probe import Probe, require

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensorMode",
    "UnsupportedFakeTensorException",
    "fake_like",
    "is_described",
    "is_described_as_gradient",
    "is_fake",
    "unset_fake_temporarily",
]

_DESCRIBES = MetaTensorDescriber.describe_tensor.__code__


def is_fake(tensor: torch.Tensor) -> bool:
    """Say whether a plain tensor has no elements."""
    return type(tensor) is FakeTensor


def fake_like(
    fake: torch.Tensor, shape: Any, stride: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return another fake tensor, of the mode of `fake`, and of its dtype and on its device unless others are wanted.

    Sizes may be symbolic. Relies on its `fake_mode`.
    """
    mode: FakeTensorMode = fake.fake_mode  # type: ignore[attr-defined]
    with mode:
        return torch.empty_strided(shape, stride, dtype=dtype or fake.dtype, device=device or fake.device)


def is_described(frame: FrameType | None) -> bool:
    """Say whether code asks for a tensor's memory to make a fake of the tensor; relies on `describe_tensor`."""
    frame = caller_past_opaque(frame)
    return frame is not None and frame.f_code is _DESCRIBES


@unseen
def is_described_as_gradient(frame: FrameType | None) -> bool:
    """Say whether code asks for a tensor's `__tensor_flatten__` to make a fake of the tensor whose gradient it is.

    What is made of a plain tensor then fails on a gradient that wraps another one. Relies on `describe_tensor` calling
    itself, and on nothing but `is_traceable_wrapper_subclass` between it and who is asked.
    """
    for _ in range(4):
        if frame is None or frame.f_code is _DESCRIBES:
            break
        frame = frame.f_back
    caller = frame.f_back if frame is not None else None
    return frame is not None and frame.f_code is _DESCRIBES and caller is not None and caller.f_code is _DESCRIBES


def _check_mode() -> None:
    with FakeTensorMode():
        product = torch.empty(2, 3) @ torch.empty(3, 4)
    other = fake_like(product, (4, 5), (1, 4))
    require(is_fake(other) and not is_fake(torch.ones(2)), "fake tensors are told from real ones")
    require((product @ other).shape == (2, 5), "one can be made under the mode of another")
    require(product.shape == (2, 4), "operators on fake tensors give the shapes that real ones have")


def _check_unset() -> None:
    with FakeTensorMode(), unset_fake_temporarily():
        made = torch.ones(2)
    require(type(made) is torch.Tensor, "tensors are real where the mode is lifted")


def _raises(expected: type[BaseException], function: Callable[[torch.Tensor], object]) -> None:
    with FakeTensorMode():
        tensor = torch.ones(2)
        try:
            function(tensor)
        except expected:
            return
    require(False, f"{expected.__name__} says that a result depends on the data")


def _check_described() -> None:
    asked: list[bool] = []
    memory: list[bool] = []

    class _Asked(torch.Tensor):
        def untyped_storage(self) -> torch.UntypedStorage:
            memory.append(is_described(sys._getframe(1)))
            return super().untyped_storage()

        @property
        def __tensor_flatten__(self) -> Any:
            asked.append(is_described_as_gradient(sys._getframe(1)))
            raise AttributeError

        @staticmethod
        def __tensor_unflatten__(*parts: Any) -> Any: ...

    leaf = torch.ones(2, requires_grad=True)
    leaf.grad = torch.ones(2).as_subclass(_Asked)
    MetaTensorDescriber().describe_tensor(leaf.grad)
    require(asked != [] and not any(asked), "a tensor is described for itself")
    require(memory == [True], "its memory is asked for once")
    asked.clear()
    MetaTensorDescriber().describe_tensor(leaf)
    require(any(asked), "a gradient is described with its leaf")


PROBES = (
    Probe("torch._subclasses.meta_utils.MetaTensorDescriber", "takes leaves with remote gradients", _check_described),
    Probe("torch._subclasses.fake_tensor.FakeTensorMode", "tells the shapes of results", _check_mode),
    Probe("torch._subclasses.fake_tensor.FakeTensor", "tells the shapes of results", _check_mode),
    Probe("torch._subclasses.fake_tensor.unset_fake_temporarily", "handles constants during a capture", _check_unset),
    Probe(
        "torch._subclasses.fake_tensor.DynamicOutputShapeException",
        "finds operators whose results have a size that only the data tells",
        lambda: _raises(DynamicOutputShapeException, torch.nonzero),
    ),
    Probe(
        "torch._subclasses.fake_tensor.DataDependentOutputException",
        "finds operators whose results are numbers that only the data tells",
        lambda: _raises(DataDependentOutputException, lambda tensor: torch.equal(tensor, tensor)),
    ),
    Probe(
        "torch._subclasses.fake_tensor.UnsupportedFakeTensorException",
        "finds operators whose results cannot be told without running them",
        lambda: issubclass(UnsupportedFakeTensorException, Exception),
    ),
)
