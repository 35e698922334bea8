"""Shapes, strides and dtypes of an operator's results, from fake tensors; remembered by structure."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch

from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.schemas import read_schema
from dynamo_genie.tensor.operator_lowering import ABSENT, StructureKey, rebuild_call
from dynamo_genie.torch_internals.fake import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves

Metadata: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, int]
"""Shape, strides (elements), dtype and storage offset (elements) of a tensor."""


aten = torch.ops.aten

QUICK_OPERATORS = frozenset(
    {
        aten.slice.Tensor, aten.select.int, aten.unsqueeze.default, aten.squeeze.dim, aten.expand.default,
        aten.permute.default, aten.transpose.int, aten.t.default, aten.view.default, aten.clone.default,
        aten.cat.default, aten.isin.Tensor_Tensor, aten.argmax.default, aten._to_copy.default,
        aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar, aten.add.Scalar,
        aten.mul.Scalar, aten.eq.Scalar, aten.eq.Tensor, aten.ne.Scalar, aten.lt.Scalar, aten.gt.Scalar,
        aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.bitwise_not.default, aten.logical_not.default,
        aten.any.dim, aten.max.default, aten.index_select.default, aten.gather.default, aten.where.self,
        aten.masked_fill.Scalar, aten.split.Tensor, aten._softmax.default, aten.copy_.default,
    }
)  # fmt: skip
"""Operators whose results a plain meta tensor describes as a fake tensor does, ten to three hundred times sooner.

They are what loops such as `generate()` run at a new length in every step; a test compares both ways.
"""


@dataclass(frozen=True)
class ResultMetadata:
    """What a call returns. `tensors` has one entry per new tensor, lists laid out flat.

    Attributes:
        layout: For each return of the schema, the number of tensors of a list, ABSENT for None, or -1 otherwise.
        known: False when only the daemon can tell, by running the call; then `tensors` is empty.
    """

    tensors: tuple[Metadata, ...]
    layout: tuple[int, ...]
    known: bool = True


def metadata_of(tensor: torch.Tensor) -> Metadata:
    """Return a tensor's own shape, strides and dtype."""
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, int(tensor.storage_offset())


@lru_cache(maxsize=16_384)
def infer_results(
    func: OpOverload,
    structure: StructureKey,
    scalars: tuple[int | float, ...],
    tensors: tuple[Metadata, ...],
    default_dtype: torch.dtype,
) -> ResultMetadata:
    """Return what a call would return, without running it. `default_dtype` is the current one: results follow it.

    A call that fake tensors refuse is left to the daemon, where that can be asked at once: its kernels raise what eager
    raises, and the checks of fake tensors often something else.

    Raises:
        UnsupportedOperator: The call would change the shape of an argument in place.
        Exception: Whatever fake tensors raise for arguments that do not fit.
    """
    quick = func in QUICK_OPERATORS and all(dtype.is_complex is False for _, _, dtype, _ in tensors)
    with nullcontext() if quick else FakeTensorMode(), torch.no_grad():
        fakes = [_fake(*metadata, "meta" if quick else "cpu") for metadata in tensors]
        args, kwargs = rebuild_call(structure, fakes, list(scalars))
        try:
            out = func(*args, **kwargs)
        except (DynamicOutputShapeException, DataDependentOutputException, UnsupportedFakeTensorException):
            return _unknown(func)
        except Exception:
            if not _makes_tensors_only(func):
                raise
            return _unknown(func)
    for fake, (shape, stride, _, _) in zip(fakes, tensors, strict=True):
        if tuple(fake.shape) != shape or fake.stride() != stride:
            raise UnsupportedOperator(
                f"{func} changes the shape of a remote tensor in place; use the form that returns a new tensor"
            )
    return _describe(func, _asked_for(func, args, kwargs, out))


def _unknown(func: OpOverload) -> ResultMetadata:
    return ResultMetadata((), (-1,) * len(read_schema(func).results), known=False)


def _makes_tensors_only(func: OpOverload) -> bool:
    """Whether an operator writes nothing and returns new tensors, a fixed number of them."""
    schema = read_schema(func)
    results = schema.results
    return bool(results) and not schema.writes and all(r.form == "tensor" and r.argument is None for r in results)


def _fake(
    shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, offset: int, device: str
) -> torch.Tensor:
    fake = torch.empty_strided(shape, stride, dtype=dtype, device=device)
    if offset == 0:
        return fake
    return fake.new_empty(offset + fake.untyped_storage().nbytes() // dtype.itemsize).as_strided(shape, stride, offset)


def _describe(func: OpOverload, out: Any) -> ResultMetadata:
    results = read_schema(func).results
    values = out if len(results) > 1 else (out,) if results else ()
    found: list[Metadata] = []
    layout: list[int] = []
    for result, value in zip(results, values, strict=True):
        layout.append(_length(value))
        if result.form != "self":
            found.extend(metadata_of(leaf) for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))
    return ResultMetadata(tuple(found), tuple(layout))


def _asked_for(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Put None for what an `output_mask` leaves out: kernels return None there, and fake tensors often a tensor."""
    names = [argument.name for argument in func._schema.arguments]
    if "output_mask" not in names:
        return out
    position = names.index("output_mask")
    mask = args[position] if position < len(args) else kwargs["output_mask"]
    return tuple(value if asked else None for value, asked in zip(out, mask, strict=True))


def _length(value: Any) -> int:
    if value is None:  # such as a gradient that `output_mask` leaves out
        return ABSENT
    return len(value) if isinstance(value, list | tuple) else -1
