"""How a program reads the values of a remote tensor: as a plain tensor, numbers, lists or text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from dynamo_genie.runtime.session.session import Handle
from dynamo_genie.tensor.in_daemon import InDaemon
from dynamo_genie.tensor.memory_here import read, read_number
from dynamo_genie.torch_internals.guarded_memory import answers_in_python, wrapper_tensor
from dynamo_genie.torch_internals.opaque import opaque, opaque_class, unseen
from dynamo_genie.torch_internals.tensors import text_with_history

aten = torch.ops.aten


@opaque_class
class Reading(InDaemon):
    """The methods of a tensor that fetch its values and leave it where it is.

    C++ functions such as `torch.tensor([a, b])` call them with dispatch to Python turned off, so nothing here may rely
    on operators on the tensor itself.
    """

    def materialize(self) -> torch.Tensor:
        """Return a plain local copy, detached."""
        return read(self)

    @unseen
    def item(self) -> Any:
        """Return the one element as a plain number."""
        handle = self.handle or self.base
        if handle is None:
            return _item_in_graph(self)
        known = handle.memory.numbers  # of a loop over elements this is all that is done
        if known is not None and known[0] is self.dtype and self.numel() == 1:
            return known[1][self.storage_offset()]
        return read_number(self)

    def __float__(self) -> float:
        """Return the one element."""
        return super().__float__() if self.traced else float(_one(self))

    def __int__(self) -> int:
        """Return the one element, cut to a whole number."""
        return super().__int__() if self.traced else int(_one(self))

    def __complex__(self) -> complex:
        """Return the one element."""
        return super().__complex__() if self.traced else complex(_one(self))

    def __bool__(self) -> bool:
        """Return whether the one element is not zero."""
        return super().__bool__() if self.traced else bool(read(self))

    def __index__(self) -> int:
        """Return the one element, if it is a whole number."""
        return super().__index__() if self.traced else read(self).__index__()

    def __iter__(self) -> Iterator[Any]:
        """Give the parts along the first dimension."""
        if self.traced or answers_in_python():
            return super().__iter__()  # type: ignore[no-any-return, no-untyped-call]
        return iter(read(self))

    def resolve_conj(self) -> Any:
        """Return the values with conjugation carried out, where a view of this memory conjugates."""
        if self.traced or not self.memory.reinterpreted or not self.is_complex():
            return self
        return aten._conj_physical.default(aten._conj.default(self))

    def resolve_neg(self) -> Any:
        """Return the values with negation carried out, where a view of this memory negates."""
        if self.traced or not self.memory.reinterpreted:
            return self
        return aten.neg.default(aten._neg_view.default(self))

    def tolist(self) -> Any:
        """Return the values as nested lists."""
        return read(self).tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]  # torch: untyped
        """Print like the tensor it stands for."""
        if self.traced:
            return f"RemoteTensor(shape={tuple(self.shape)}, dtype={self.dtype})"
        local = read(self)
        if self.requires_grad and self.is_leaf:
            return repr(local.requires_grad_())
        return repr(local) if self.grad_fn is None else text_with_history(repr(local), self.grad_fn)

    def __format__(self, format_spec: str) -> str:
        """Format a number as a number, anything else like `repr`."""
        if self.dim() == 0 and not self.traced:
            return format(self.item(), format_spec)
        return object.__format__(self, format_spec)


def _one(tensor: Reading) -> Any:
    """Return the one element as a plain number; raise as Python's conversions of tensors do where it has several."""
    if tensor.numel() != 1:
        raise ValueError("only one element tensors can be converted to Python scalars")
    return read_number(tensor)


@opaque
def _item_in_graph(tensor: Reading) -> Any:
    return torch.Tensor.item(tensor)


@unseen
def subscript(tensor: Reading, index: Any) -> Any:
    """Return `tensor[index]`; an element of memory whose contents are known is not even named in the daemon."""
    handle = tensor.handle or tensor.base
    if handle is not None and handle.memory.contents is not None:
        view = _element(tensor, handle, index if type(index) is tuple else (index,))
        if view is not None:
            return view
    return torch.Tensor.__getitem__(tensor, index)


@unseen
def _element(tensor: Reading, handle: Handle, index: tuple[Any, ...]) -> Any:
    """Return the element, or the row, at whole numbers; None where that is not what is asked for."""
    shape, stride, offset, count = tensor.shape, tensor.stride(), tensor.storage_offset(), len(index)
    if count > len(stride) or (tensor.requires_grad and torch.is_grad_enabled()):
        return None
    for at, size, step in zip(index, shape, stride, strict=False):
        if type(at) is not int or not -size <= at < size:
            return None
        offset += (at + size if at < 0 else at) * step
    whole = count == len(stride)
    view = wrapper_tensor(
        type(tensor),
        () if whole else shape[count:],
        () if whole else stride[count:],
        offset,
        tensor.dtype,
        type(tensor).place_of(handle),
    )
    view.handle, view.base, view._carrier, view.tracked = None, handle, None, False
    return view
