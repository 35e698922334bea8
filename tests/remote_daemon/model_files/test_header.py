"""The header of a safetensors file: as the reference writes it, and refused wherever it is anything else."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.files import StoredFile, opened, read_exactly, read_stored_file
from dynamo_genie.remote_daemon.model_files.header import MAX_HEADER_NBYTES, MAX_TENSORS, parse_header
from tests.remote_daemon.model_files.written import tensor_file, with_header

NONE = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
TWO = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(4, dtype=torch.int8)}


def read(path: Path) -> StoredFile:
    with opened(path) as descriptor:
        return read_stored_file(path, descriptor)


def header_of(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def entry(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_reference_writes_is_read(tmp_path: Path) -> None:
    tensors = {
        "float": torch.rand(3, 5),
        "half": torch.rand(2, 2, 2).half(),
        "brain": torch.rand(7).bfloat16(),
        "eight": torch.rand(4).to(torch.float8_e4m3fn),
        "long": torch.arange(3),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "none": torch.empty(0, 4),
        "ünïcode/名": torch.ones(1, dtype=torch.uint8),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(tensors, metadata={"format": "pt", "by": "a test"}))
    found = {tensor.name: tensor for tensor in read(path).tensors}
    data = path.read_bytes()
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        stored = found[name]
        assert (stored.shape, f"torch.{stored.dtype}") == (tuple(tensor.shape), str(tensor.dtype))
        raw = data[stored.start : stored.start + stored.nbytes]
        assert raw == tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else raw == b""


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (header_of(a=entry(offsets=(0, 8))), 8, "make 4 bytes"),
        (header_of(a=entry(shape=(5,))), 4, "make 5 bytes"),
        (header_of(a=entry(dtype="F32")), 4, "make 16 bytes"),
        (header_of(a=entry(dtype="F4")), 4, "dtype 'F4'"),
        (header_of(a=entry(offsets=(4, 0))), 4, "make 4 bytes"),
        (header_of(a=entry(offsets=(-4, 0))), 4, "cannot be read"),
        (header_of(a=entry(shape=(-1,))), 4, "cannot be read"),
        (header_of(a=entry(shape=(1 << 62, 4))), 4, "cannot be read"),
        (header_of(a=entry(shape=[1 << 60] * 8)), 4, "make"),
        (header_of(a=entry(shape=[1] * 65)), 4, "cannot be read"),
        (header_of(a=entry(), b=entry()), 4, "lies over the tensor before it"),
        (header_of(a=entry(), b=entry(offsets=(2, 6))), 6, "lies over the tensor before it"),
        (header_of(a=entry(), b=entry(offsets=(5, 9))), 9, "bytes before it that are nobody's"),
        (header_of(a=entry(offsets=(1, 5))), 5, "bytes before it that are nobody's"),
        (header_of(a=entry()), 5, "bytes at its end that are nobody's"),
        (header_of(a=entry()), 3, "ends too soon"),
        (header_of(a={**entry(), "more": 1}), 4, "unknown field"),
        (header_of(a={"dtype": "U8", "shape": [4]}), 4, "missing required field"),
        (header_of(a=[1]), 4, "cannot be read"),
        (header_of(__metadata__={"a": 1}), 0, "metadata cannot be read"),
        (header_of(__metadata__=["a"]), 0, "metadata cannot be read"),
        (b"[]", 0, "brace"),
        (b" {}", 0, "brace"),
        (b"{", 0, "8 bytes|possible|cannot be read"),
        (b"{}{}", 0, "cannot be read"),
        (b'{"a\xff": 1}', 0, "cannot be read"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", 0, "cannot be read"),
        (b'{"a": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 0, "cannot be read"),
        (b'{"\\ud800": ' + NONE + b"}", 0, "no text|cannot be read"),
        (b'{"a":' + NONE + b',"a":' + NONE + b"}", 0, "names 'a' twice"),
        (b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}', 0, "names 'dtype' twice"),
        (b'{"__metadata__":{},"__metadata__":{}}', 0, "names '__metadata__' twice"),
        (header_of(**{"n" * 5000: entry()}), 4, "5,000 characters"),
        (b"{" + b",".join(b'"%d":' % i + NONE for i in range(MAX_TENSORS + 1)) + b"}", 0, "at most 65,536"),
    ],
    ids=range(34),
)  # fmt: skip
def test_what_is_not_as_the_format_says_is_refused(tmp_path: Path, header: bytes, data: int, why: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header, b"\0" * data))
    with pytest.raises(ModelFileError, match=rf"x.safetensors is no safetensors file that can be read: .*({why})"):
        read(path)


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_NBYTES + 1, (1 << 63) - 1, (1 << 64) - 1])
def test_the_length_of_a_header_is_believed_within_limits(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelFileError, match="header is said to have"):
        read(path)


@pytest.mark.parametrize("nbytes", range(9))
def test_a_file_that_ends_in_its_first_bytes_is_refused(tmp_path: Path, nbytes: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensor_file(TWO)[:nbytes])
    with pytest.raises(ModelFileError):
        read(path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link", "nothing", "."):
        with pytest.raises(ModelFileError), opened(tmp_path / name):
            pass


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
numbers = st.integers(-2, 40) | st.integers()
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "BF16", "I64", "BOOL", "F4", "C64", ""]) | json_like,
        "shape": st.lists(numbers, max_size=4) | json_like,
        "data_offsets": st.tuples(numbers, numbers).map(list) | json_like,
    }
)
headers = st.dictionaries(
    st.text(max_size=6) | st.just("__metadata__"),
    entries | st.dictionaries(st.text(), st.text()) | json_like,
    max_size=4,
)


def check(data: bytes, tmp: Path) -> None:
    """Read a file; whatever it is, it is refused by name, or all that it says lies inside it, each byte once."""
    tmp.write_bytes(data)
    try:
        tensors = read(tmp).tensors
    except ModelFileError:
        return
    header_end = 8 + int.from_bytes(data[:8], "little")
    places = [header_end, *(tensor.start + tensor.nbytes for tensor in tensors)]
    assert [tensor.start for tensor in tensors] == places[:-1]
    assert places[-1] == len(data)
    assert all(first <= second for first, second in pairwise(places))
    with opened(tmp) as descriptor:
        for tensor in tensors:
            room = bytearray(tensor.nbytes)
            read_exactly(descriptor, memoryview(room), tensor.start)
            assert bytes(room) == data[tensor.start : tensor.start + tensor.nbytes]


@given(header=headers, data=st.binary(max_size=64), length=st.none() | st.integers(0, (1 << 64) - 1))
def test_a_hostile_header_is_refused_or_stays_within_its_file(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes, length: int | None
) -> None:
    encoded = json.dumps(header).encode()
    whole = with_header(encoded, data)
    if length is not None:
        whole = length.to_bytes(8, "little") + whole[8:]
    check(whole, tmp_path_factory.getbasetemp() / "hostile.safetensors")


@given(data=st.binary(max_size=200))
@example(data=b"")
@example(data=b"\2" + b"\0" * 7 + b"{}")
def test_bytes_of_any_kind_are_refused_or_stay_within_their_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    check(data, tmp_path_factory.getbasetemp() / "any.safetensors")


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_a_file_with_one_byte_changed_is_refused_or_stays_within_itself(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: int
) -> None:
    data = bytearray(tensor_file(TWO))
    data[position % len(data)] = value
    check(bytes(data[: len(data) - cut % 5]), tmp_path_factory.getbasetemp() / "changed.safetensors")


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensor_file(TWO))
    stored = read(path)
    with opened(path) as descriptor:
        os.truncate(path, stored.tensors[0].start + 3)
        with pytest.raises(ModelFileError, match="became shorter"):
            read_exactly(descriptor, memoryview(bytearray(stored.tensors[0].nbytes)), stored.tensors[0].start)


def test_an_empty_object_is_a_file_without_tensors() -> None:
    assert parse_header(b"{}", 10) == ()
