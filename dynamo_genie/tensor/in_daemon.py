"""A tensor whose elements live in a daemon: its layout, the handle that names it, and the memory that it is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch

from dynamo_genie.runtime.session.session import Handle, Memory
from dynamo_genie.tensors import span_numel
from dynamo_genie.torch_internals.guarded_memory import CPU, no_torch_function, take_over, wrapper_tensor
from dynamo_genie.torch_internals.opaque import unseen

Dispatch = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class InDaemon(torch.Tensor):
    """What `RemoteTensor` is below its methods.

    Attributes:
        run_operator: Runs an operator where its remote arguments live; the room sets it when it is imported.
        send_operator: The same for one that a daemon runs, and sends it at once.
        handle: The handle that names it; None while a graph is traced, and of a view that nothing has named yet.
        base: Of a view that nothing has named yet, what it is a view of.
        stays: Whether it is never brought here: code that wants its memory is refused.
        tracked: Whether autograd knows what it is a view of.
    """

    run_operator: ClassVar[Dispatch]
    send_operator: ClassVar[Dispatch]
    handle: Handle | None
    base: Handle | None
    tracked: bool = True
    stays: ClassVar[bool] = False
    _carrier: torch.Tensor | None

    @staticmethod
    def __new__(
        cls: type[Self],
        shape: Any,
        stride: Any,
        dtype: torch.dtype,
        handle: Handle | None,
        carrier: torch.Tensor | None = None,
        offset: Any = 0,
    ) -> Self:
        """Wrap a handle; `shape` and `stride` may be symbolic while a graph is traced."""
        place = cls.place_of(handle) if carrier is None else carrier.device
        self = wrapper_tensor(cls, shape, stride, offset, dtype, place)
        self.handle = handle
        self.base = None
        self._carrier = carrier
        return self

    __torch_function__ = no_torch_function  # type: ignore[assignment]

    @classmethod
    @unseen
    def place_of(cls, handle: Handle | None) -> torch.device:
        """Return the device that a tensor of this class claims, wherever its elements are."""
        return CPU

    @property
    def traced(self) -> bool:
        """Whether it stands for an input while Dynamo or AOTAutograd traces a graph, and has no elements anywhere."""
        return self.handle is None and self.base is None

    @property
    def memory(self) -> Memory:
        """What is known of the memory that it is in."""
        handle = self.handle or self.base
        assert handle is not None
        return handle.memory

    @property
    def memory_nbytes(self) -> int:
        """The size of the memory that this tensor, or the one it views, is in."""
        if self.memory.nbytes:
            return self.memory.nbytes
        span = span_numel(self.shape, self.stride())
        return int(self.storage_offset() + span) * self.itemsize if span else 0

    def named(self) -> Handle:
        """Return its handle; a view that nothing has named yet gets one."""
        if self.handle is None:
            base = self.base
            assert base is not None
            whole = type(self)(self.shape, self.stride(), self.dtype, base, None, self.storage_offset())
            arguments = (whole, tuple(self.shape), self.stride(), self.storage_offset())
            self.handle = type(self).send_operator(torch.ops.aten.as_strided.default, arguments, {}).handle
            self.base = None
        assert self.handle is not None
        return self.handle

    def become(self, other: InDaemon) -> None:
        """Be another tensor from now on, under the same identity: its layout, its elements, its memory."""
        take_over(self, other)
        self.handle, self.base, self._carrier = other.handle, other.base, None
