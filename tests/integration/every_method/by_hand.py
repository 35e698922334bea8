"""Arguments for members of `torch.Tensor` that PyTorch has no samples for, and checks of what they give.

A call returns something that can be compared: a pointer is read, a hook is triggered, a storage is listed.
"""

from __future__ import annotations

import copy
import ctypes
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

INPUTS: dict[str, Tensor] = {
    "matrix": torch.linspace(-1, 1, 12).view(3, 4),
    "square": torch.linspace(-1, 1, 9).view(3, 3) + 2 * torch.eye(3),
    "batch": torch.linspace(-1, 1, 24).view(2, 3, 4),
    "vector": torch.linspace(-2, 2, 5),
    "column": torch.linspace(-2, 2, 3).view(1, 3, 1),
    "number": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
    "integers": torch.arange(-3, 5).view(2, 4),
    "integer": torch.tensor(3),
    "booleans": torch.tensor([True, False, True]),
    "complex": torch.linspace(-1, 1, 6).view(2, 3) + 1j * torch.linspace(2, 3, 6).view(2, 3),
    "square complex": torch.linspace(-1, 1, 4).view(2, 2) * (1 + 2j) + torch.eye(2),
    "half": torch.linspace(-1, 1, 6, dtype=torch.bfloat16).view(2, 3),
    "probabilities": torch.linspace(0.1, 0.9, 12).view(3, 4),
    "transposed": torch.linspace(-1, 1, 12).view(4, 3).t(),
}

PLAIN_INPUTS = ("matrix", "integer", "complex", "booleans")
"""What a member without arguments is tried on."""


class Labelled(Tensor):
    """A subclass of a user's own."""


@dataclass(frozen=True)
class Use:
    """A call of a member, and the inputs to try it on."""

    call: Callable[[Tensor], Any]
    inputs: tuple[str, ...] = ("matrix",)


def _on(inputs: str, *calls: Callable[[Tensor], Any]) -> tuple[Use, ...]:
    return tuple(Use(call, tuple(name.strip() for name in inputs.split(","))) for call in calls)


def _matrix(*calls: Callable[[Tensor], Any]) -> tuple[Use, ...]:
    return _on("matrix", *calls)


def _memory(pointer: int, tensor: Tensor) -> bytes:
    return ctypes.string_at(pointer, tensor.untyped_storage().nbytes()) if pointer else b"no memory"


def _write_memory(tensor: Tensor) -> Tensor:
    ctypes.memset(tensor.data_ptr(), 0, tensor.element_size())
    return tensor


def _write_array(array: Any, tensor: Tensor) -> Tensor:
    array[..., 0] = 7
    return tensor


def _array_sees_writes(tensor: Tensor) -> Any:
    array = tensor.numpy()
    tensor.mul_(2)
    return array


def _set(tensor: Tensor, index: Any, value: Any) -> Tensor:
    tensor[index] = value
    return tensor


def _set_grad(tensor: Tensor) -> Any:
    leaf = tensor.detach().requires_grad_()
    leaf.grad = torch.ones_like(leaf)
    (leaf * leaf).sum().backward()
    return leaf.grad


def _set_data(tensor: Tensor, value: Tensor) -> Tensor:
    tensor.data = value
    return tensor


def _into_parameter(tensor: Tensor) -> Any:
    layer = nn.Linear(4, 3)
    layer.weight.data = tensor.detach()
    return layer(torch.ones(2, 4)), layer.weight


def _saved(tensor: Tensor) -> Any:
    file = io.BytesIO()
    torch.save({"a": tensor.detach(), "b": tensor.detach()[0]}, file)
    file.seek(0)
    return torch.load(file)


def _hooked(tensor: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    tensor.register_hook(lambda grad: seen.append(grad.clone()))
    (tensor * 3).sum().backward()
    return seen


def _hooked_leaf(tensor: Tensor) -> list[Any]:
    leaf = tensor.detach().requires_grad_()
    seen: list[Any] = []
    leaf.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    (leaf * leaf).sum().backward()
    return seen


def _backward(tensor: Tensor) -> Any:
    leaf = tensor.detach().requires_grad_()
    (leaf * leaf).sum().backward()
    return leaf.grad


def _retain(tensor: Tensor) -> Any:
    tensor.retain_grad()
    (tensor * tensor).sum().backward()
    return tensor.grad, tensor.retains_grad


def _seeded(call: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def use(tensor: Tensor) -> Any:
        torch.manual_seed(7)
        return call(tensor)

    return use


def _storage_write(tensor: Tensor) -> Tensor:
    tensor.untyped_storage()[0] = 1
    return tensor


def _typed_storage_write(tensor: Tensor) -> Tensor:
    tensor.storage()[1] = 5
    return tensor


_OTHER = torch.linspace(3, 4, 12).view(3, 4)
_MASK = INPUTS["matrix"] > 0

_UNARY = ("__abs__", "__neg__", "__pos__")
_BINARY = (
    "__add__ __sub__ __mul__ __truediv__ __floordiv__ __mod__ __pow__ __rsub__ __radd__ __rmul__ __rtruediv__ "
    "__rfloordiv__ __rmod__ __rpow__ __div__ __rdiv__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ "
    "__iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __idiv__"
).split()
_BITWISE = (
    "__and__ __or__ __xor__ __rand__ __ror__ __rxor__ __lshift__ __rshift__ __rlshift__ __rrshift__ "
    "__iand__ __ior__ __ixor__ __ilshift__ __irshift__"
).split()


def _method(name: str, *arguments: Any) -> Callable[[Tensor], Any]:
    return lambda tensor: getattr(tensor, name)(*arguments)


def _with_itself(name: str) -> Callable[[Tensor], Any]:
    return lambda tensor: getattr(tensor, name)(tensor)


def _operator(name: str) -> tuple[Use, ...]:
    if name in _BITWISE:
        return _on("integers", _method(name, 2), _method(name, torch.tensor([1, 2, 1, 3])), _with_itself(name))
    numbers = _on("matrix, integers", _method(name, 2), _with_itself(name))
    return numbers + _matrix(_method(name, 1.5), _method(name, _OTHER))


ARGUMENTS: dict[str, tuple[Use, ...]] = {
    **{name: _operator(name) for name in (*_BINARY, *_BITWISE)},
    "__matmul__": _matrix(_method("__matmul__", torch.ones(4, 2))),
    "__rmatmul__": _matrix(_method("__rmatmul__", torch.ones(2, 3))),
    "__imatmul__": _on("square", _method("__imatmul__", torch.eye(3))),
    "__array__": _on(
        "matrix, integers, number",
        lambda y: y.detach().__array__(),
        lambda y: np.asarray(y.detach()),
        lambda y: np.array(y.detach(), dtype=np.float64),
        lambda y: np.add(y.detach(), 1),
    )
    + _matrix(lambda y: y.__array__(), lambda y: _write_array(np.asarray(y.detach()), y)),
    "__array_wrap__": _matrix(lambda y: y.__array_wrap__(np.ones((3, 4), dtype=np.float32))),
    "__bool__": _on("number, integer, matrix, empty", bool),
    "__nonzero__": _on("number, integer", lambda y: y.__nonzero__()),
    "__complex__": _on("number, integer, matrix", complex),
    "__float__": _on("number, integer, matrix", float),
    "__int__": _on("number, integer, matrix", int),
    "__long__": _on("integer", lambda y: y.__long__()),
    "__index__": _on("integer, number", lambda y: [10, 11, 12, 13, 14][y], lambda y: y.__index__()),
    "__contains__": _matrix(lambda y: 1.0 in y, lambda y: 5.0 in y, lambda y: torch.tensor(-1.0) in y),
    "__deepcopy__": _matrix(lambda y: copy.deepcopy(y.detach()), copy.deepcopy, lambda y: copy.copy(y)),
    "__delitem__": _matrix(lambda y: y.__delitem__(0)),
    "__dlpack__": _on("matrix, integers, half", lambda y: torch.from_dlpack(y.detach()))
    + _matrix(
        lambda y: np.from_dlpack(y.detach()),
        lambda y: torch.from_dlpack(y.detach().__dlpack__()),
        lambda y: (torch.from_dlpack(y.detach()).fill_(4), y)[1],
        lambda y: y.__dlpack__() is not None,
    ),
    "__format__": _on("number, integer", lambda y: f"{y.detach():.2f}", lambda y: f"{y}")
    + _matrix(lambda y: f"{y}", lambda y: f"{y:.2f}"),
    "__getitem__": _matrix(
        *[
            (lambda y, i=index: y[i])  # type: ignore[misc]
            for index in (
                0,
                -1,
                (1, 2),
                slice(1, None),
                (slice(None), slice(None, None, 2)),
                None,
                (Ellipsis, 1),
                (slice(None), [0, 2]),
                torch.tensor([2, 0]),
                _MASK,
                torch.tensor(1),
                (None, slice(0, 2), None, 1),
                True,
                9,
            )
        ]
    ),
    "__setitem__": _matrix(
        *[
            (lambda y, i=index, v=value: _set(y, i, v))  # type: ignore[misc]
            for index, value in (
                (0, 5.0),
                ((1, 2), 5),
                (slice(1, None), torch.ones(4)),
                ((slice(None), slice(None, None, 2)), 0),
                ((slice(None), [0, 2]), torch.zeros(3, 2)),
                (_MASK, 0.0),
                (_MASK, torch.arange(int(_MASK.sum())).float()),
                (torch.tensor([2, 0]), torch.ones(2, 4)),
                (Ellipsis, 1),
                (0, torch.ones(7)),
            )
        ],
        lambda y: _set(y, 0, y[1]),
    ),
    "__iter__": _on("matrix, vector, number, empty", list),
    "__reversed__": _on("matrix, vector", lambda y: y.__reversed__()),
    "__len__": _on("matrix, vector, number, empty", len),
    "__reduce_ex__": _matrix(
        lambda y: pickle.loads(pickle.dumps(y.detach())),
        lambda y: pickle.loads(pickle.dumps(y.detach()[1])),
        _saved,
    ),
    "__setstate__": _matrix(lambda y: y.__setstate__((y.detach(), None, None))),
    "__repr__": _on("matrix, integers, number, booleans, complex, half, empty", lambda y: repr(y.detach())),
    "__str__": _on("matrix, number", lambda y: str(y.detach())),
    "__array_priority__": _matrix(lambda y: y.__array_priority__, lambda y: np.ones((3, 4), np.float32) * y.detach()),
    "adjoint": _on("matrix, square complex", lambda y: y.adjoint()),
    "H": _on("matrix, square complex", lambda y: y.H),
    "T": _on("matrix, square complex, vector", lambda y: y.T),
    "mH": _on("batch, square complex", lambda y: y.mH),
    "mT": _on("batch, square complex", lambda y: y.mT),
    "apply_": _matrix(lambda y: y.apply_(lambda v: v * 2), lambda y: y.detach().apply_(lambda v: v * 2)),
    "as_subclass": _matrix(lambda y: y.as_subclass(Labelled), lambda y: type(y.as_subclass(Labelled)).__name__),
    "backward": _matrix(lambda y: y.sum().backward(), lambda y: y.backward(torch.ones(3, 4)), _backward),
    "bernoulli": _on("probabilities", _seeded(lambda y: y.bernoulli()), _seeded(lambda y: y.bernoulli(0.5))),
    "bernoulli_": _on(
        "probabilities", _seeded(lambda y: y.bernoulli_()), _seeded(lambda y: y.bernoulli_(torch.full((3, 4), 0.3)))
    ),
    "ccol_indices": _matrix(lambda y: y.ccol_indices(), lambda y: y.detach().to_sparse_csc().ccol_indices()),
    "row_indices": _matrix(lambda y: y.row_indices(), lambda y: y.detach().to_sparse_csc().row_indices()),
    "crow_indices": _matrix(lambda y: y.crow_indices(), lambda y: y.detach().to_sparse_csr().crow_indices()),
    "col_indices": _matrix(lambda y: y.col_indices(), lambda y: y.detach().to_sparse_csr().col_indices()),
    "coalesce": _matrix(lambda y: y.coalesce(), lambda y: y.to_sparse().coalesce().to_dense()),
    "indices": _matrix(lambda y: y.indices(), lambda y: y.to_sparse().indices()),
    "values": _matrix(lambda y: y.values(), lambda y: y.to_sparse().values()),
    "const_data_ptr": _matrix(lambda y: _memory(y.detach().const_data_ptr(), y)),
    "data_ptr": _on("matrix, integers, half", lambda y: _memory(y.data_ptr(), y)) + _matrix(_write_memory),
    "copy_": _matrix(
        lambda y: y.copy_(_OTHER),
        lambda y: y.copy_(torch.arange(4)),
        lambda y: y.copy_(y * 2),
        lambda y: torch.zeros(3, 4).copy_(y),
        lambda y: y.copy_(torch.ones(5)),
    ),
    "data": _matrix(
        lambda y: y.data,
        lambda y: y.data.fill_(3),
        lambda y: _set_data(y, torch.full((3, 4), 9.0)),
        lambda y: _set_data(y, torch.full((2,), 9.0)),
        lambda y: _set_data(torch.zeros(3, 4), y.detach()),
        _into_parameter,
    ),
    "det": _on("square, matrix", lambda y: y.det()),
    "slogdet": _on("square", lambda y: y.slogdet()),
    "inverse": _on("square", lambda y: y.inverse()),
    "detach_": _matrix(lambda y: y.detach_(), lambda y: (y * 2).detach_()),
    "device": _matrix(lambda y: str(y.device), lambda y: torch.zeros(2, device=y.device)),
    "dim_order": _on("matrix, transposed, batch", lambda y: y.dim_order()),
    "fill_diagonal_": _matrix(lambda y: y.fill_diagonal_(5), lambda y: y.fill_diagonal_(5, wrap=True)),
    "ger": _on("vector", lambda y: y.ger(torch.arange(3.0))),
    "grad": _matrix(lambda y: y.detach().grad, _backward, _set_grad),
    "grad_fn": _matrix(lambda y: y.grad_fn is None, lambda y: (y * 2).grad_fn is None),
    "grad_dtype": _matrix(lambda y: y.detach().grad_dtype),
    "hardshrink": _matrix(lambda y: y.hardshrink(0.3)),
    "imag": _on("complex, matrix", lambda y: y.imag),
    "real": _on("complex, matrix", lambda y: y.real),
    "is_set_to": _matrix(lambda y: y.is_set_to(y), lambda y: y.is_set_to(y.view(3, 4)), lambda y: y.is_set_to(_OTHER)),
    "is_same_size": _matrix(lambda y: y.is_same_size(_OTHER)),
    "is_shared": _matrix(lambda y: y.detach().is_shared()),
    "item": _on("number, integer, matrix", lambda y: y.item())
    + _matrix(lambda y: [y[i, j].item() for i in range(3) for j in range(4)]),
    "map_": _matrix(lambda y: y.detach().map_(_OTHER, lambda a, b: a + b)),
    "map2_": _matrix(lambda y: y.detach().map2_(_OTHER, _OTHER, lambda a, b, c: a + b * c)),
    "matrix_power": _on("square", lambda y: y.matrix_power(3), lambda y: y.matrix_power(-1)),
    "module_load": _matrix(lambda y: y.detach().module_load(_OTHER)),
    "multinomial": _on("probabilities", _seeded(lambda y: y.multinomial(2))),
    "new_tensor": _matrix(lambda y: y.new_tensor([1, 2]), lambda y: torch.tensor(y.detach()).fill_(1)),
    "numpy": _on("matrix, integers, complex, number, booleans, transposed", lambda y: y.detach().numpy())
    + _matrix(
        lambda y: y.numpy(),
        lambda y: y.numpy(force=True),
        lambda y: _write_array(y.detach().numpy(), y),
        lambda y: _array_sees_writes(y.detach()),
    ),
    "orgqr": _on("square", lambda y: y.orgqr(torch.ones(3))),
    "pin_memory": _matrix(lambda y: y.detach().pin_memory()),
    "prelu": _matrix(lambda y: y.prelu(torch.tensor([0.2]))),
    "random_": _on(
        "matrix, integers",
        _seeded(lambda y: y.random_()),
        _seeded(lambda y: y.random_(5)),
        _seeded(lambda y: y.random_(2, 9)),
    ),
    "record_stream": _matrix(lambda y: y.record_stream(torch.Stream("cpu"))),
    "register_hook": _matrix(_hooked),
    "register_post_accumulate_grad_hook": _matrix(_hooked_leaf, lambda y: y.register_post_accumulate_grad_hook(print)),
    "reinforce": _matrix(lambda y: y.reinforce(1)),
    "requires_grad": _matrix(lambda y: y.requires_grad, lambda y: setattr(y.detach(), "requires_grad", True)),
    "requires_grad_": _matrix(lambda y: y.detach().requires_grad_(), _backward)
    + _on("integers", lambda y: y.requires_grad_()),
    "retain_grad": _matrix(_retain),
    "resize": _matrix(lambda y: y.detach().resize(4, 3)),
    "resize_as": _matrix(lambda y: y.detach().resize_as(torch.ones(2, 6))),
    "resize_": _matrix(
        lambda y: y.detach().resize_(4, 3),
        lambda y: y.resize_(2, 2),
        lambda y: y.detach().resize_(4, 4)[:3],
        lambda y: (y.detach().resize_(2, 6).add_(1), y)[1],
    ),
    "resize_as_": _matrix(lambda y: y.detach().resize_as_(torch.ones(2, 6))),
    "resize_as_sparse_": _matrix(lambda y: y.resize_as_sparse_(_OTHER.to_sparse())),
    "set_": _matrix(
        lambda y: y.detach().set_(_OTHER.clone()),
        lambda y: y.set_(_OTHER.clone()),
        lambda y: y.detach().set_(),
        lambda y: torch.zeros(2).set_(y.detach()),
        lambda y: y.detach().set_(_OTHER.clone().untyped_storage(), 1, (2, 2), (2, 1)),
        lambda y: torch.zeros(0).set_(y.untyped_storage(), 0, (2, 2), (2, 1)),
    ),
    "share_memory_": _matrix(lambda y: y.detach().share_memory_(), lambda y: y.share_memory_()),
    "size": _on("matrix, number", lambda y: tuple(y.size())) + _matrix(lambda y: y.size(1), lambda y: y.size(5)),
    "stride": _on("matrix, transposed, number", lambda y: y.stride()) + _matrix(lambda y: y.stride(0)),
    "slice_inverse": _matrix(lambda y: y[1:2].slice_inverse(y, 0, 1, 2, 1)),
    "smm": _on("square", lambda y: y.to_sparse().smm(torch.eye(3)).to_dense()),
    "sspaddmm": _on("square", lambda y: y.to_sparse().sspaddmm(torch.eye(3).to_sparse(), torch.eye(3)).to_dense()),
    "sparse_mask": _matrix(lambda y: y.sparse_mask(_MASK.float().to_sparse()).to_dense()),
    "sparse_resize_": _matrix(lambda y: y.sparse_resize_((3, 4), 2, 0)),
    "sparse_resize_and_clear_": _matrix(lambda y: y.sparse_resize_and_clear_((3, 4), 2, 0)),
    "storage": _on("matrix, integers", lambda y: y.storage().tolist())
    + _matrix(_typed_storage_write, lambda y: y.storage().size(), lambda y: str(y.storage().dtype)),
    "untyped_storage": _on("matrix, integers, half", lambda y: bytes(y.untyped_storage().tolist()))
    + _matrix(
        _storage_write,
        lambda y: y.untyped_storage().nbytes(),
        lambda y: y.untyped_storage().data_ptr() == y[1].untyped_storage().data_ptr(),
        lambda y: y.untyped_storage().data_ptr() == (y + 1).untyped_storage().data_ptr(),
        lambda y: _memory(y.untyped_storage().data_ptr(), y),
        lambda y: bytes(y.untyped_storage().clone().tolist()),
    ),
    "to_dense": _matrix(lambda y: y.to_dense(), lambda y: y.to_sparse().to_dense()),
    "to_mkldnn": _matrix(lambda y: y.detach().to_mkldnn().to_dense()),
    "to_padded_tensor": _matrix(
        lambda y: torch.nested.nested_tensor([y.detach(), y.detach()[:2]]).to_padded_tensor(0.0),
        lambda y: torch.nested.as_nested_tensor([y, y[:2]], layout=torch.jagged).to_padded_tensor(0.0),
    ),
    "to_sparse": _matrix(lambda y: y.to_sparse().to_dense(), lambda y: y.to_sparse(1).values()),
    "to_sparse_bsc": _matrix(lambda y: y.detach().to_sparse_bsc((1, 2)).to_dense()),
    "to_sparse_bsr": _matrix(lambda y: y.detach().to_sparse_bsr((1, 2)).to_dense()),
    "to_sparse_coo": _matrix(lambda y: y.detach().to_sparse_coo().to_dense()),
    "to_sparse_csc": _matrix(lambda y: y.detach().to_sparse_csc().to_dense()),
    "to_sparse_csr": _matrix(lambda y: y.detach().to_sparse_csr().to_dense()),
    "is_coalesced": _matrix(lambda y: y.is_coalesced(), lambda y: y.to_sparse().is_coalesced()),
    "sparse_dim": _matrix(lambda y: y.sparse_dim(), lambda y: y.to_sparse().sparse_dim()),
    "dense_dim": _matrix(lambda y: y.dense_dim(), lambda y: y.to_sparse().dense_dim()),
    "squeeze_": _on("column", lambda y: y.squeeze_(), lambda y: y.squeeze_(0), lambda y: y.detach().squeeze_((0, 2))),
    "unsqueeze_": _matrix(lambda y: y.unsqueeze_(0), lambda y: y.unsqueeze_(-1).add_(1)),
    "t_": _matrix(lambda y: y.t_(), lambda y: y.t_().add_(1), lambda y: y.t_() @ torch.ones(3, 2)),
    "transpose_": _matrix(lambda y: y.transpose_(0, 1), lambda y: y.transpose_(0, 1).mul_(2)),
    "swapaxes_": _matrix(lambda y: y.swapaxes_(0, 1)),
    "swapdims_": _matrix(lambda y: y.swapdims_(0, 1)),
    "as_strided_": _matrix(lambda y: y.as_strided_((2, 2), (1, 2)), lambda y: y.as_strided_((2, 2), (1, 2), 1).add_(1)),
    "tolist": _on("matrix, integers, number, booleans, complex, empty", lambda y: y.tolist()),
    "type": _matrix(lambda y: y.type(), lambda y: y.type(torch.float64), lambda y: y.type("torch.IntTensor")),
    "type_as": _matrix(lambda y: y.type_as(torch.zeros(1, dtype=torch.int32)), lambda y: torch.arange(3).type_as(y)),
    "dtype": _on("matrix, integers, half", lambda y: y.dtype),
    "unsafe_split_with_sizes": _matrix(lambda y: y.unsafe_split_with_sizes([1, 2])),
    "dequantize": _matrix(lambda y: torch.quantize_per_tensor(y.detach(), 0.1, 0, torch.qint8).dequantize()),
    "int_repr": _matrix(
        lambda y: y.int_repr(), lambda y: torch.quantize_per_tensor(y.detach(), 0.1, 0, torch.qint8).int_repr()
    ),
    "q_scale": _matrix(lambda y: y.q_scale()),
    "names": _matrix(lambda y: y.names),
    "rename": _matrix(lambda y: y.rename(None)),
    "nbytes": _on("matrix, half", lambda y: y.nbytes),
    "relu": _matrix(lambda y: y.relu()),
    "relu_": _matrix(lambda y: y.relu_()),
    "new_zeros": _matrix(lambda y: y.new_zeros(2, 3), lambda y: y.new_zeros((2,), dtype=torch.int32)),
    "is_contiguous": _on("matrix, transposed, number", lambda y: y.is_contiguous()),
    "is_nonzero": _on("number, integer, matrix", lambda y: y.is_nonzero()),
}
"""Uses by member; they come before PyTorch's samples of the same member."""
