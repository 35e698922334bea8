"""Tensors as bytes and back, for every dtype and layout."""

from __future__ import annotations

import gc

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.runtime.wire.tensor import DTYPES, TensorSpec
from dynamo_genie.tensors import (
    TORCH_DTYPES,
    WIRE_DTYPES,
    dense_for_wire,
    dense_form,
    empty_like_spec,
    flat_bytes,
    from_flat_bytes,
    is_dense,
    require_dense,
    span_numel,
    spec_nbytes,
    spec_of,
    tensor_bytes,
    wire_dtype,
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw a view of a tensor of random bytes: permuted, sliced, expanded, conjugated."""
    dtype = TORCH_DTYPES[draw(st.sampled_from(DTYPES))]
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    content = draw(st.binary(min_size=nbytes, max_size=nbytes))
    if dtype is torch.bool:
        content = bytes(byte & 1 for byte in content)
    tensor = torch.empty(shape, dtype=dtype)
    tensor_bytes(tensor, writable=True)[:] = content
    tensor = tensor.permute(draw(st.permutations(list(range(len(shape))))))
    if shape and draw(st.booleans()):
        tensor = tensor[:: draw(st.integers(1, 2))]
    if draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(draw(st.integers(1, 3)), *tensor.shape)
    if dtype in (torch.complex64, torch.complex128) and draw(st.booleans()):
        tensor = tensor.conj()
    return tensor


def elements(tensor: torch.Tensor) -> bytes:
    """Return the elements in logical order."""
    plain = tensor.resolve_conj().resolve_neg()
    return bytes(tensor_bytes(torch.empty_like(plain, memory_format=torch.contiguous_format).copy_(plain)))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(tensors())
def test_a_tensor_that_travels_comes_back_with_the_same_elements(tensor: torch.Tensor) -> None:
    dense = dense_for_wire(tensor)
    spec, data = spec_of(dense), bytes(tensor_bytes(dense))
    assert len(data) == spec_nbytes(spec)
    back = empty_like_spec(spec)
    tensor_bytes(back, writable=True)[:] = data
    assert back.shape == tensor.shape
    assert back.dtype == tensor.dtype
    assert elements(back) == elements(tensor)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(tensors())
def test_flat_bytes_are_the_same_memory_and_come_back_as_the_same_tensor(tensor: torch.Tensor) -> None:
    dense = dense_form(tensor)
    flat = flat_bytes(dense)
    assert flat.dtype is torch.uint8
    assert bytes(tensor_bytes(flat)) == bytes(tensor_bytes(dense))
    back = from_flat_bytes(flat, spec_of(dense))
    assert spec_of(back) == spec_of(dense)
    assert dense.numel() == 0 or back.data_ptr() == dense.data_ptr()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(tensors())
def test_density_is_what_torch_calls_non_overlapping_and_dense(tensor: torch.Tensor) -> None:
    said = torch.ops.aten.is_non_overlapping_and_dense.default(tensor)
    assert is_dense(tensor.shape, tensor.stride()) == (said or tensor.numel() == 0)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(tensors())
def test_a_tensor_spans_its_elements_and_the_holes_between_them(tensor: torch.Tensor) -> None:
    span = span_numel(tensor.shape, tensor.stride())
    places = torch.arange(span).as_strided(tensor.shape, tensor.stride())
    assert span == (int(places.max()) + 1 if places.numel() else 0)
    if is_dense(tensor.shape, tensor.stride()):
        assert span == tensor.numel()


def test_a_spec_says_the_strides_of_tensors_that_are_not_dense_too() -> None:
    assert spec_of(torch.zeros(3).expand(2, 3)) == TensorSpec("float32", (2, 3), (0, 1))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(tensors())
def test_a_dense_tensor_keeps_its_strides_and_its_memory(tensor: torch.Tensor) -> None:
    if tensor.is_conj() or not is_dense(tuple(tensor.shape), tensor.stride()):
        return
    dense = dense_for_wire(tensor)
    assert dense is tensor
    assert empty_like_spec(spec_of(dense)).stride() == tensor.stride()


def test_every_wire_dtype_has_a_torch_dtype_and_back() -> None:
    assert tuple(TORCH_DTYPES) == DTYPES
    assert {WIRE_DTYPES[dtype] for dtype in TORCH_DTYPES.values()} == set(DTYPES)


def test_bytes_are_the_memory_itself_and_not_a_copy() -> None:
    tensor = torch.zeros(4, dtype=torch.uint8)
    view = tensor_bytes(tensor)
    tensor[2] = 7
    assert bytes(view) == b"\0\0\7\0"
    with pytest.raises(TypeError):
        view[0] = 1


def test_bytes_outlive_the_tensor_and_a_swap_of_its_data() -> None:
    tensor = torch.full((1 << 20,), 3, dtype=torch.uint8)
    view = tensor_bytes(tensor)
    tensor.data = torch.zeros(1, dtype=torch.uint8)
    del tensor
    gc.collect()
    assert view[0] == view[-1] == 3


def test_lazily_negated_tensors_travel_with_their_values() -> None:
    imaginary = torch.tensor([1 + 2j]).conj().imag
    assert imaginary.is_neg()
    assert elements(dense_for_wire(imaginary)) == elements(torch.tensor([-2.0]))


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_what_cannot_travel_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="quint8"):
        spec_of(torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.quint8))
    with pytest.raises(TypeError, match="meta"):
        tensor_bytes(torch.empty(2, device="meta"))
    with pytest.raises(TypeError, match="sparse"):
        dense_for_wire(torch.eye(2).to_sparse())


def test_dtypes_go_by_their_names_on_the_wire() -> None:
    assert wire_dtype(torch.bfloat16) == "bfloat16"
    assert TORCH_DTYPES["float8_e5m2"] is torch.float8_e5m2


@pytest.mark.parametrize("stride", [(0, 1), (4, 1), (1,)])
def test_a_spec_that_is_not_dense_allocates_nothing(stride: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="not dense"):
        empty_like_spec(TensorSpec("float32", (2, 3), stride))


def test_bytes_that_a_spec_does_not_exactly_fill_are_refused() -> None:
    spec = TensorSpec("float32", (2, 3), (3, 1))
    require_dense(spec, 24)
    with pytest.raises(ProtocolError, match="20 bytes do not hold"):
        require_dense(spec, 20)
    with pytest.raises(ProtocolError, match="not dense"):
        from_flat_bytes(torch.zeros(24, dtype=torch.uint8), TensorSpec("float32", (2, 3), (4, 1)))


def test_a_tensor_of_too_many_dimensions_is_refused_before_it_is_sent() -> None:
    assert len(spec_of(torch.ones((1,) * 64)).shape) == 64
    with pytest.raises(QuotaExceeded, match="65 dimensions; at most 64"):
        spec_of(torch.ones((1,) * 65))
