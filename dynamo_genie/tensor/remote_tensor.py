"""`RemoteTensor`: a tensor whose elements live in a daemon, and which behaves like the tensor eager would return.

It claims the device that the program believes in (the CPU) and knows shape, strides and dtype; the elements come
when something reads them. Eager operators on it run where it lives. Dynamo captures it for this backend as a plain
tensor, and a compiled call gets it as it is. Where another backend captures, Dynamo and AOTAutograd see through it to
its *carrier*, a plain tensor of the same shape: with its elements at a call, without memory while a graph is traced.
The code here is none of theirs to trace, hence `opaque`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import MethodType
from typing import Any, ClassVar, TypeVar
from weakref import ref

import torch

from dynamo_genie.runtime.session.session import Handle
from dynamo_genie.tensor.memory_here import bring_here
from dynamo_genie.tensor.native_access import NativeAccess
from dynamo_genie.tensor.reading import Reading, subscript
from dynamo_genie.torch_internals.capture import capturing_backend, wants_elements
from dynamo_genie.torch_internals.fake import fake_like, is_described_as_gradient, is_fake, unset_fake_temporarily
from dynamo_genie.torch_internals.guarded_memory import CPU
from dynamo_genie.torch_internals.opaque import opaque, opaque_class, unseen
from dynamo_genie.torch_internals.subscript import indexed_by

BackendT = TypeVar("BackendT", bound=Callable[..., Any])

IN_OUR_CALL: ContextVar[bool] = ContextVar("IN_OUR_CALL", default=False)
"""Whether a function that this backend compiled is being called: no other knows what to do with a carrier."""


_TAKES_REMOTE = "takes_remote_tensors"


def takes_remote_tensors(backend: BackendT) -> BackendT:
    """Mark a backend for `torch.compile` whose graphs take a `RemoteTensor` wherever a plain tensor may come."""
    setattr(backend, _TAKES_REMOTE, True)
    return backend


def is_captured_as_plain() -> bool:
    """Say whether Dynamo captures a graph for a backend that is marked so, on this thread."""
    return getattr(capturing_backend(), _TAKES_REMOTE, False)


def make_carrier(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor like `tensor`, on the device that it claims, that owns no memory."""
    offset = tensor.storage_offset()
    if tensor.device != CPU:
        from dynamo_genie.torch_internals.device.kernels import make_without_memory  # not in every torch

        return make_without_memory(tensor.shape, tensor.stride(), offset, tensor.dtype)
    carrier = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if offset:
        whole = torch.empty(offset + carrier.untyped_storage().nbytes() // carrier.itemsize, dtype=tensor.dtype)
        carrier = whole.as_strided(tensor.shape, tensor.stride(), offset)
    carrier.untyped_storage().resize_(0)
    return carrier


Flat = tuple[list[str], torch.device | None]
"""The names of the tensors inside one, and its device, if not the CPU: a carrier is on the first one of its kind."""


class _Flatten:
    """`RemoteTensor.__tensor_flatten__`, which shows Dynamo and AOTAutograd the carrier, and is not always there.

    A `Tangent` has none; and where a fake is made of a plain leaf whose gradient is remote, that passes for plain.
    """

    @unseen
    def __get__(self, tensor: RemoteTensor | None, owner: type[RemoteTensor]) -> Callable[..., Flat]:
        if tensor is not None and (tensor.wraps_nothing or is_described_as_gradient(sys._getframe(1))):
            raise AttributeError("__tensor_flatten__")
        return _flatten if tensor is None else MethodType(_flatten, tensor)


@opaque
def _flatten(tensor: RemoteTensor) -> Flat:
    return ["carrier"], None if tensor.device == CPU else tensor.device


@indexed_by(subscript)
@opaque_class
class RemoteTensor(Reading, NativeAccess):
    """A tensor that lives in a daemon, or did until its memory was touched.

    Attributes:
        saved_from: Of a value that a forward graph saved: what shows the same memory, and its version at that time.
        wraps_nothing: Whether AOTAutograd, which asks with `hasattr`, is to find no carrier.
    """

    saved_from: tuple[torch.Tensor, int] | None = None
    wraps_nothing: ClassVar[bool] = False

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types its own as a C function, not as a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator where the tensor lives."""
        return cls.run_operator(func, args, kwargs or {})

    @property
    def carrier(self) -> torch.Tensor:
        """The plain tensor that stands for this one in compiled calls, with its elements where those expect some."""
        if self.traced:
            assert self._carrier is not None
            return self._carrier
        if self.memory.local is not None or (not IN_OUR_CALL.get() and wants_elements(sys._getframe(1))):
            return _elements(self)
        if self._carrier is None:
            handle = self.named()
            self._carrier = make_carrier(self)
            self._carrier.genie_handle = handle  # type: ignore[attr-defined]
            self._carrier.genie_source = ref(self)  # type: ignore[attr-defined]
        return self._carrier

    __tensor_flatten__ = _Flatten()

    @classmethod
    def __tensor_unflatten__(
        cls, inner: dict[str, torch.Tensor], context: torch.device | None, size: Any, stride: Any
    ) -> torch.Tensor:
        """Make the tensor that tracing sees: a plain one where Dynamo captures for a backend that takes both kinds."""
        carrier = inner["carrier"]
        if is_fake(carrier) and is_captured_as_plain():
            return fake_like(carrier, size, stride, context)
        handle = getattr(carrier, "genie_handle", None)
        return cls(size, stride, carrier.dtype, handle, carrier, carrier.storage_offset())

    def __coerce_same_metadata_as_tangent__(self, expected: Any, expected_type: type | None = None) -> Any:
        """Go into a backward graph that was traced with a plain tensor."""
        if expected_type is not torch.Tensor:
            return None
        if self.memory.local is not None:
            return bring_here(self)
        return Tangent(self.shape, self.stride(), self.dtype, self.named(), offset=self.storage_offset())

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        """Copy in the daemon, with all memory the tensor views: views copied together share memory again."""
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment"
            )
        with torch.no_grad():
            place = (RemoteTensor, id(self.memory), self.dtype)  # the copy in `memo` keeps the memory alive
            if place not in memo:
                numel = self.memory_nbytes // self.itemsize
                memo[place] = self.detach().as_strided((numel,), (1,), 0).clone()
            copy = memo[place].as_strided(self.shape, self.stride(), self.storage_offset())
        memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return copy

    def _is_view(self) -> bool:
        """Let Dynamo take a view for a tensor of its own, since the graph gets a handle of its own for it."""
        return self.traced and super()._is_view()


@opaque_class
class Tangent(RemoteTensor):
    """A remote tensor on its way into a backward graph, where AOTAutograd takes it for an opaque tensor.

    AOTAutograd may bring it into another memory format first; the carrier, which has no memory, could not follow.
    What is computed from a `Tangent` is one.
    """

    wraps_nothing = True


def _elements(tensor: RemoteTensor) -> torch.Tensor:
    plain: list[torch.Tensor] = []
    with unset_fake_temporarily():  # AOTAutograd asks while it makes its inputs fake
        plain.append(bring_here(tensor))
    return plain[0]


def handle_of(value: Any) -> Handle | None:
    """Return the handle behind a remote tensor or a carrier, None for anything local."""
    if isinstance(value, RemoteTensor):
        return None if value.traced or value.memory.local is not None else value.named()
    return getattr(value, "genie_handle", None) if isinstance(value, torch.Tensor) else None


def share_memory(values: Iterable[Any]) -> bool:
    """Say whether two remote tensors among `values` lie in one memory."""
    memories = [id(value.memory) for value in values if isinstance(value, RemoteTensor)]
    return len(set(memories)) < len(memories)


def source_of(value: Any) -> Any:
    """Return the remote tensor for which a carrier stands, None when it is gone; anything else as it is."""
    source = getattr(value, "genie_source", None)
    return value if source is None or isinstance(value, RemoteTensor) else source()


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether elements share memory because a dimension has stride 0; kernels take another path for those."""
    return 0 in tensor.stride() and any(st == 0 and n > 1 for n, st in zip(tensor.shape, tensor.stride(), strict=True))
