"""How a program gets at the memory of a remote tensor: the tensor is brought here first, and stays."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor

from dynamo_genie.tensor.in_daemon import InDaemon
from dynamo_genie.tensor.memory_here import bring_here, live_on, read
from dynamo_genie.torch_internals.capture import is_tracing
from dynamo_genie.torch_internals.fake import is_described
from dynamo_genie.torch_internals.guarded_memory import data_of, take_over
from dynamo_genie.torch_internals.opaque import opaque_class


@opaque_class
class NativeAccess(InDaemon):
    """The methods of a tensor that hand out memory, or take some."""

    @property
    def data(self) -> Any:
        """The tensor without its gradient's history; set, it takes over another tensor's memory and layout."""
        return data_of(self)

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        if self.traced:
            take_over(self, other)
        elif isinstance(other, InDaemon):
            self.become(other)
        else:
            live_on(self, other)

    def _here(self) -> torch.Tensor:
        """Return the plain tensor on the same memory, which wants a gradient where this one does."""
        return bring_here(self).requires_grad_(self.requires_grad)

    def data_ptr(self) -> int:
        """Return the address of the first element."""
        return super().data_ptr() if self.traced else bring_here(self).data_ptr()

    def const_data_ptr(self) -> int:
        """Return the address of the first element, for who only reads."""
        return self.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory as bytes; to who traces a graph, none that could be another tensor's."""
        if self.traced:
            return torch.UntypedStorage(0)
        if is_tracing() or is_described(sys._getframe(1)):
            return torch.UntypedStorage(self.memory_nbytes, device="meta")
        return bring_here(self).untyped_storage()

    def storage(self) -> Any:
        """Return the memory as elements, in the form that PyTorch deprecates."""
        return super().storage() if self.traced else bring_here(self).storage()  # type: ignore[no-untyped-call]

    def _typed_storage(self) -> Any:
        return super()._typed_storage() if self.traced else bring_here(self)._typed_storage()  # type: ignore[no-untyped-call]

    def numpy(self, *, force: bool = False) -> Any:
        """Return the memory as an array: what is written to the one is in the other."""
        return self._here().numpy(force=force)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Let NumPy have the memory, or a copy of the values where it wants that."""
        plain = read(self).requires_grad_(self.requires_grad) if copy else self._here()
        array = plain.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __dlpack__(self, **wanted: Any) -> Any:
        """Let another library have the memory."""
        return self._here().__dlpack__(**wanted)

    def share_memory_(self) -> Any:
        """Move the memory to where other processes see it."""
        bring_here(self).share_memory_()
        return self

    def is_shared(self) -> bool:
        """Say whether other processes see the memory."""
        return not self.traced and self.memory.local is not None and bring_here(self).is_shared()

    def apply_(self, function: Any) -> Any:
        """Replace each element by what a Python function makes of it."""
        self._here().apply_(function)
        return self

    def map_(self, other: Any, function: Any) -> Any:
        """Replace each element by what a Python function makes of it and of another tensor's."""
        self._here().map_(_plain(other), function)
        return self

    def map2_(self, other: Any, third: Any, function: Any) -> Any:
        """Replace each element by what a Python function makes of it and of two other tensors'."""
        self._here().map2_(_plain(other), _plain(third), function)
        return self

    def new_tensor(self, data: Any, **wanted: Any) -> torch.Tensor:  # type: ignore[override]
        """Return a new tensor of this dtype, unless another is wanted."""
        return torch.empty(0, dtype=self.dtype).new_tensor(data, **wanted)

    def new(self, *args: Any, **wanted: Any) -> torch.Tensor:  # type: ignore[override]
        """Return a new tensor of this dtype, in the form that PyTorch deprecates."""
        return torch.empty(0, dtype=self.dtype).new(*args, **wanted)

    def as_subclass(self, cls: Any) -> Any:
        """Return a tensor of another class on the same memory."""
        if self.traced:
            return super().as_subclass(cls)
        bring_here(self)
        return torch.ops.aten.alias.default(self).as_subclass(cls)  # a plain view now, of which autograd knows

    def __copy__(self) -> Any:
        """Return another tensor on the same memory, as `copy.copy` does."""
        return self.detach().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle (and `torch.save`) as the plain tensor it stands for; views saved together share memory again."""
        shared = self.memory.nbytes or self.memory.local is not None
        plain = bring_here(self) if shared else read(self)
        return plain.requires_grad_(self.requires_grad).__reduce_ex__(protocol)


def reduce_for_process(tensor: NativeAccess) -> Any:
    """Pickle for another process as a plain tensor in memory that both then see."""
    plain = bring_here(tensor).requires_grad_(tensor.requires_grad and tensor.is_leaf)
    return reduce_tensor(plain)


def _plain(value: Any) -> Any:
    return bring_here(value) if isinstance(value, InDaemon) else value
