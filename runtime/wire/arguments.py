"""Arguments of a Program's nodes, typed: references to values and sub-programs, literals, lists, names of dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec

from dynamo_genie.runtime.wire.limits import MAX_ITEMS
from dynamo_genie.runtime.wire.tensor import Dtype

Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Word: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]


class ProgramRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base: a msgpack array whose first element is the tag."""


class Ref(ProgramRecord, frozen=True, tag="r"):
    """The value with this number."""

    index: Index


class SubRef(ProgramRecord, frozen=True, tag="s"):
    """The sub-program with this number; only operators that run sub-programs take one."""

    index: Index


class ComplexNumber(ProgramRecord, frozen=True, tag="c"):
    real: float
    imag: float


class DtypeName(ProgramRecord, frozen=True, tag="d"):
    name: Dtype


class LayoutName(ProgramRecord, frozen=True, tag="l"):
    name: Literal["strided"]


class MemoryFormatName(ProgramRecord, frozen=True, tag="m"):
    name: Literal["contiguous_format", "channels_last", "channels_last_3d", "preserve_format"]


class Items(ProgramRecord, frozen=True, tag="i"):
    """A list of arguments (`int[]`, `Tensor[]`, `Tensor?[]`, ...)."""

    items: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=MAX_ITEMS)]


Argument: TypeAlias = (
    None
    | bool
    | Int64
    | float
    | Word
    | Ref
    | SubRef
    | ComplexNumber
    | DtypeName
    | LayoutName
    | MemoryFormatName
    | Items
)


def references(argument: Argument) -> Iterator[int]:
    """Yield the numbers of the values that an argument names: its own, or those in a list of any depth."""
    if isinstance(argument, Ref):
        yield argument.index
    elif isinstance(argument, Items):
        for item in argument.items:
            yield from references(item)
