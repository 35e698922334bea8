"""The header of a safetensors file: which tensors there are, and where their bytes lie. Reads no file itself.

A file is the length of the header (eight bytes, little-endian), the header (a JSON object from names to dtype, shape
and offsets, with texts under `__metadata__`), and the bytes of the tensors. Whoever wrote it may mean harm: what is not
exactly as the format says is refused, and every byte of the data belongs to exactly one tensor.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import msgspec

from dynamo_genie.errors import ModelFileError
from dynamo_genie.runtime.wire.limits import MAX_STRING
from dynamo_genie.runtime.wire.tensor import MAX_RANK, Dtype, Shape, TensorSpec

LENGTH_NBYTES = 8
MAX_HEADER_NBYTES = 8 << 20
"""A header of 65,536 tensors with long names fits; the reference allows 100 MB, which take a gigabyte to understand."""

MAX_TENSORS = 65_536
METADATA = "__metadata__"

DTYPES: Mapping[str, tuple[Dtype, int]] = MappingProxyType(
    {
        "BOOL": ("bool", 1), "U8": ("uint8", 1), "I8": ("int8", 1), "I16": ("int16", 2), "U16": ("uint16", 2),
        "I32": ("int32", 4), "U32": ("uint32", 4), "I64": ("int64", 8), "U64": ("uint64", 8), "F16": ("float16", 2),
        "BF16": ("bfloat16", 2), "F32": ("float32", 4), "F64": ("float64", 8), "C64": ("complex64", 8),
        "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "F8_E8M0": ("float8_e8m0fnu", 1),
        "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    }
)  # fmt: skip
"""What a file calls a dtype: its name on the wire, and the bytes of an element."""

T = TypeVar("T")


class _Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: Annotated[str, msgspec.Meta(max_length=32)]
    shape: Shape
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)], Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: `start` is the place of its first byte in the file; it is contiguous."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def spec(self) -> TensorSpec:
        """How the tensor is described on the wire."""
        stride, strides = 1, []
        for size in reversed(self.shape):
            strides.append(stride)
            stride *= max(size, 1)
        return TensorSpec(self.dtype, self.shape, tuple(reversed(strides)))


def header_nbytes(first: bytes, file_nbytes: int) -> int:
    """Return the length of the header that follows the `first` eight bytes of a file.

    Raises:
        ModelFileError: It cannot be.
    """
    if len(first) != LENGTH_NBYTES:
        raise ModelFileError(f"it has {file_nbytes} bytes, and a safetensors file begins with the length of its header")
    length = int.from_bytes(first, "little")
    if not 2 <= length <= MAX_HEADER_NBYTES:
        raise ModelFileError(f"its header is said to have {length:,} bytes; 2 to {MAX_HEADER_NBYTES:,} are possible")
    if LENGTH_NBYTES + length > file_nbytes:
        raise ModelFileError(f"its header is said to have {length:,} bytes, and the file has {file_nbytes:,}")
    return length


def parse_header(header: bytes, file_nbytes: int) -> tuple[StoredTensor, ...]:
    """Return the tensors of a file in the order of their bytes, given its header and its size.

    Raises:
        ModelFileError: The header is not what the format says, or does not describe the data exactly.
    """
    if not header.startswith(b"{"):
        raise ModelFileError("its header does not begin with a brace")
    entries = decode_json(header, dict[str, msgspec.Raw], "its header")
    if METADATA in entries:
        decode_json(bytes(entries.pop(METADATA)), dict[str, str], "its metadata")
    if len(entries) > MAX_TENSORS:
        raise ModelFileError(f"it has {len(entries):,} tensors; at most {MAX_TENSORS:,} are read")
    start = LENGTH_NBYTES + len(header)
    tensors = [_stored(name, raw, start) for name, raw in entries.items()]
    require_distinct_keys(header, "its header")
    return _without_gaps(tensors, start, file_nbytes)


def decode_json(data: bytes, kind: type[T], what: str) -> T:
    """Return what JSON says, if it has these types.

    Raises:
        ModelFileError: It has not, or is no JSON in UTF-8.
    """
    try:
        data.decode("utf-8")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ModelFileError(f"{what} cannot be read: {error}") from None


def require_distinct_keys(data: bytes, what: str) -> None:
    """Refuse an object of JSON, which was decoded before, in which a key occurs twice.

    Raises:
        ModelFileError: One does; which of the two is meant, nobody knows.
    """

    def look(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise ModelFileError(f"{what} names {Counter(keys).most_common(1)[0][0]!r:.200} twice")

    try:
        json.loads(data, object_pairs_hook=look)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} cannot be read: {error}") from None


def require_name(name: str) -> None:
    """Refuse the name of a tensor that no message could carry.

    Raises:
        ModelFileError: It is such a name.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelFileError(f"the name of a tensor is no text: {name!r:.200}") from None
    if len(name) > MAX_STRING:
        raise ModelFileError(f"the name of a tensor has {len(name):,} characters; at most {MAX_STRING:,} are read")


def _stored(name: str, raw: msgspec.Raw, start: int) -> StoredTensor:
    require_name(name)
    described = decode_json(bytes(raw), _Described, f"the description of {name!r:.200}")
    if described.dtype not in DTYPES:
        raise ModelFileError(f"{name!r:.200} has the dtype {described.dtype!r}; known are {', '.join(DTYPES)}")
    if len(described.shape) > MAX_RANK:
        raise ModelFileError(f"{name!r:.200} has {len(described.shape)} dimensions; at most {MAX_RANK} are read")
    dtype, itemsize = DTYPES[described.dtype]
    begin, end = described.data_offsets
    nbytes = math.prod(described.shape) * itemsize
    if end - begin != nbytes:
        raise ModelFileError(
            f"{name!r:.200} has the offsets {begin:,} to {end:,}, and its dtype and shape make {nbytes:,} bytes"
        )
    return StoredTensor(name, dtype, described.shape, start + begin, nbytes)


def _without_gaps(tensors: Iterable[StoredTensor], start: int, file_nbytes: int) -> tuple[StoredTensor, ...]:
    """Return tensors in the order of their bytes, each of which begins where the one before it ends."""
    found = sorted(tensors, key=attrgetter("start", "nbytes"))
    at = start
    for tensor in found:
        if tensor.start != at:
            how = "lies over the tensor before it" if tensor.start < at else "leaves bytes before it that are nobody's"
            raise ModelFileError(f"{tensor.name!r:.200} {how}: it begins at {tensor.start:,}, not at {at:,}")
        at += tensor.nbytes
    if at != file_nbytes:
        how = "ends too soon" if at > file_nbytes else "has bytes at its end that are nobody's"
        raise ModelFileError(f"it {how}: its tensors end at {at:,}, and it has {file_nbytes:,} bytes")
    return tuple(found)
