"""`RemoteTensor`: a tensor whose elements live in a daemon, and which behaves like the tensor eager would return.

It claims the device that the program believes in (the CPU) and knows shape, strides and dtype; the elements come
when something reads them. Eager operators on it run where it lives. Dynamo and AOTAutograd see through it to its
*carrier*, a plain tensor of the same shape without memory, which brings the handle into compiled calls; the code
here is none of theirs to trace, hence `disable`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from weakref import ref

import torch

from dynamo_genie.runtime.session.session import Handle
from dynamo_genie.tensors import span_numel
from dynamo_genie.torch_internals.tensors import no_torch_function, wrapper_tensor

Dispatch = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_CPU = torch.device("cpu")


def make_carrier(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor like `tensor` that owns no memory."""
    offset = tensor.storage_offset()
    carrier = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if offset:
        whole = torch.empty(offset + carrier.untyped_storage().nbytes() // carrier.itemsize, dtype=tensor.dtype)
        carrier = whole.as_strided(tensor.shape, tensor.stride(), offset)
    carrier.untyped_storage().resize_(0)
    return carrier


class RemoteTensor(torch.Tensor):
    """A tensor that lives in a daemon.

    `handle` is None only while a graph is traced, when the carrier is a fake tensor.

    Attributes:
        run_operator: Runs an operator where its remote arguments live; the room sets it when it is imported.
        saved_from: Of a value that a forward graph saved: what shows the same memory, and its version at that time.
    """

    run_operator: ClassVar[Dispatch]
    saved_from: tuple[torch.Tensor, int] | None = None
    handle: Handle | None
    _carrier: torch.Tensor | None

    @staticmethod
    def __new__(
        cls: type[RemoteTensor],
        shape: Any,
        stride: Any,
        dtype: torch.dtype,
        handle: Handle | None,
        carrier: torch.Tensor | None = None,
        offset: Any = 0,
    ) -> RemoteTensor:
        """Wrap a handle; `shape` and `stride` may be symbolic while a graph is traced."""
        self = wrapper_tensor(cls, shape, stride, offset, dtype)
        self.handle = handle
        self._carrier = carrier
        return self

    __torch_function__ = no_torch_function  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types its own as a C function, not as a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator where the tensor lives."""
        return cls.run_operator(func, args, kwargs or {})

    @property
    def carrier(self) -> torch.Tensor:
        """The plain tensor that stands for this one in compiled calls."""
        if self._carrier is None:
            self._carrier = make_carrier(self)
            self._carrier.genie_handle = self.handle  # type: ignore[attr-defined]
            self._carrier.genie_source = ref(self)  # type: ignore[attr-defined]
        return self._carrier

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Show Dynamo and AOTAutograd the carrier."""
        return ["carrier"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], context: None, size: Any, stride: Any) -> RemoteTensor:
        """Make the tensor that tracing sees."""
        carrier = inner["carrier"]
        handle = getattr(carrier, "genie_handle", None)
        return RemoteTensor(size, stride, carrier.dtype, handle, carrier, carrier.storage_offset())

    def __coerce_same_metadata_as_tangent__(self, expected: Any, expected_type: type | None = None) -> Any:
        """Go into a backward graph that was traced with a plain tensor."""
        if expected_type is not torch.Tensor:
            return None
        return Tangent(self.shape, self.stride(), self.dtype, self.handle, offset=self.storage_offset())

    # --- reading -------------------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def materialize(self) -> torch.Tensor:
        """Return a plain local copy, detached."""
        assert self.handle is not None
        [local] = self.handle.session.fetch([self.handle.id], [self.handle.kind])
        return local

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __repr__(self, *, tensor_contents: object = None) -> str:
        """Print like the tensor it stands for."""
        if self.handle is None:
            return f"RemoteTensor(shape={tuple(self.shape)}, dtype={self.dtype})"
        local = self.materialize()
        return repr(local.requires_grad_() if self.requires_grad and self.is_leaf else local)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __format__(self, format_spec: str) -> str:
        """Format a number as a number, anything else like `repr`."""
        if self.dim() == 0 and self.handle is not None:
            return format(self.item(), format_spec)
        return object.__format__(self, format_spec)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def numpy(self, *, force: bool = False) -> Any:
        """Return the values as a read-only array: writing to it could not reach the daemon."""
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        array = self.materialize().numpy(force=force)
        array.flags.writeable = False
        return array

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Let NumPy read the values."""
        array = self.materialize().numpy()
        return array if dtype is None else array.astype(dtype)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def tolist(self) -> Any:
        """Return the values as nested lists."""
        return self.materialize().tolist()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle (and `torch.save`) as the plain tensor it stands for."""
        local = self.materialize()
        return local.requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    @property
    def memory_nbytes(self) -> int:
        """The size of the memory that this tensor, or the one it views, lives in."""
        assert self.handle is not None
        if self.handle.root_nbytes:
            return self.handle.root_nbytes
        span = span_numel(self.shape, self.stride())
        return int(self.storage_offset() + span) * self.itemsize if span else 0

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        """Copy in the daemon, with all memory the tensor views: views copied together share memory again."""
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment"
            )
        assert self.handle is not None
        with torch.no_grad():
            place = (RemoteTensor, self.handle.session, self.handle.root, self.dtype)
            if place not in memo:
                numel = self.memory_nbytes // self.itemsize
                memo[place] = self.detach().as_strided((numel,), (1,), 0).clone()
            copy = memo[place].as_strided(self.shape, self.stride(), self.storage_offset())
        memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return copy

    def _is_view(self) -> bool:
        """Let Dynamo take a view for a tensor of its own, since the graph gets a handle of its own for it."""
        return self.handle is None and super()._is_view()


class Tangent(RemoteTensor):
    """A remote tensor on its way into a backward graph, where AOTAutograd takes it for an opaque tensor.

    AOTAutograd may bring it into another memory format first; the carrier, which has no memory, could not follow.
    What is computed from a `Tangent` is one.
    """

    @property
    def __tensor_flatten__(self) -> Any:
        """Not there: `hasattr` tells AOTAutograd that there is no carrier to take out."""
        raise AttributeError("__tensor_flatten__")


def handle_of(value: Any) -> Handle | None:
    """Return the handle behind a remote tensor or a carrier, None for anything local."""
    if isinstance(value, RemoteTensor):
        return value.handle
    return getattr(value, "genie_handle", None) if isinstance(value, torch.Tensor) else None


def source_of(value: Any) -> Any:
    """Return the remote tensor for which a carrier stands, None when it is gone; anything else as it is."""
    source = getattr(value, "genie_source", None)
    return value if source is None or isinstance(value, RemoteTensor) else source()


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether elements share memory because a dimension has stride 0; kernels take another path for those."""
    return 0 in tensor.stride() and any(st == 0 and n > 1 for n, st in zip(tensor.shape, tensor.stride(), strict=True))
