"""How a tensor is described on the wire: dtype name, shape, strides. Knows nothing of torch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.limits import MAX_RANK as MAX_RANK

Dtype = Literal[
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

Extent = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Shape = Annotated[tuple[Extent, ...], msgspec.Meta(max_length=MAX_RANK)]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Dtype name, shape and strides (elements) of a dense tensor whose bytes travel in memory order."""

    dtype: Dtype
    shape: Shape
    stride: Shape


class InlineTensor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="T"):
    """A small tensor inside a control message; `packed` says that `data` is zlib-compressed."""

    spec: TensorSpec
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_INLINE_NBYTES)]
    packed: bool = False
