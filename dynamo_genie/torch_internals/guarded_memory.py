"""Tensors without memory that raise where code would touch it, instead of reading what is not there.

What reaches such a tensor from C++, past its class, finds a storage of no bytes whose pointer may not be asked for.
Kernels that ask for no pointer, only for the address behind it, are stopped one step earlier: the tensor carries a
dispatch key that no device of this process has, and whose kernels raise. Its own class is asked first and answers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _dispatch_key_parse,
    _set_throw_on_mutable_data_ptr,
    _SetExcludeDispatchKeyGuard,
)
from torch._C import _disabled_torch_function_impl as no_torch_function
from torch._C import _dispatch_tls_is_dispatch_key_excluded as is_excluded

from dynamo_genie.errors import NoMemoryHere
from dynamo_genie.torch_internals.opaque import unseen
from dynamo_genie.torch_internals.probe import Probe, require

__all__ = ["no_torch_function"]

TensorT = TypeVar("TensorT", bound=torch.Tensor)

_KEY = "FPGA"
"""A functionality that no build of torch has kernels for."""

CPU = torch.device("cpu")


@unseen
def wrapper_tensor(
    cls: type[TensorT], shape: Any, stride: Any, offset: Any, dtype: torch.dtype, device: torch.device = CPU
) -> TensorT:
    """Return a tensor of `cls` that has a layout and no memory; sizes may be symbolic.

    Relies on `torch.Tensor._make_wrapper_subclass`, which calls no `__init__`. Such a class turns `__torch_function__`
    off with `no_torch_function`, and answers in `__torch_dispatch__`. Where another tensor took over its storage
    (`plain.data = wrapper`), or dispatch to Python is off, kernels raise `NoMemoryHere`.
    """
    wrapper: TensorT = torch.Tensor._make_wrapper_subclass(
        cls,
        shape,
        strides=stride,
        storage_offset=offset,
        dtype=dtype,
        device=device,
        _extra_dispatch_keys=_guard().keys if device is CPU else None,  # of another device there are no kernels
        storage_size=0,
    )
    _set_throw_on_mutable_data_ptr(wrapper)
    return wrapper


def take_over(tensor: torch.Tensor, other: torch.Tensor) -> None:
    """Give a tensor the memory and the layout of another, and leave its class, its identity and its gradient alone.

    Relies on the setter of `Tensor.data`, whatever `data` means to the tensor's class.
    """
    torch.Tensor.data.__set__(tensor, other)  # type: ignore[attr-defined]


def data_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return another tensor on the same memory without a gradient, whatever `data` means to the tensor's class."""
    return torch.Tensor.data.__get__(tensor)  # type: ignore[attr-defined, no-any-return]


def answers_in_python() -> bool:
    """Say whether operators on subclasses arrive at `__torch_dispatch__` now; some C++ functions turn that off."""
    return not is_excluded(DispatchKey.Python)


class _Guard(NamedTuple):
    """The key that guards, and the registrations that last as long as they are held."""

    keys: DispatchKeySet | None
    libraries: tuple[torch.library.Library, ...]


def answering_in_python() -> AbstractContextManager[None]:
    """Return a context in which operators on subclasses do, whatever C++ function this was called from."""
    return _SetExcludeDispatchKeyGuard(DispatchKey.Python, False)


@cache
def _guard() -> _Guard:
    """Register the kernels that raise, once a process; none where this torch has no such key, as its probe says."""
    try:
        key = _dispatch_key_parse(_KEY)
    except RuntimeError:
        return _Guard(None, ())
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_refuse, _KEY)
    copies = torch.library.Library("aten", "IMPL")  # it has a kernel for all devices, which reads
    copies.impl("copy_", _refuse_copy, _KEY)
    return _Guard(DispatchKeySet(key), (everything, copies))


def _refuse(operator: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise NoMemoryHere(
        f"{operator} would read memory of a remote result that is not here: a plain tensor took over the result's "
        "storage (`plain.data = result`), or C++ code reads it past its class. Bring the result here first, with "
        "dynamo_genie.to_local(result), or copy it with plain.data.copy_(result)"
    )


def _refuse_copy(*args: Any, **kwargs: Any) -> NoReturn:
    _refuse("aten.copy_")


class _Wrapper(torch.Tensor):
    """Answers every operator with whether it was `add`."""

    __torch_function__ = no_torch_function  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types its own as a C function, not as a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return torch.tensor(func is torch.ops.aten.add.Tensor)


def _check_wrapper() -> None:
    wrapper = wrapper_tensor(_Wrapper, (2, 3), (3, 1), 1, torch.float16)
    layout = (wrapper.shape, wrapper.stride(), wrapper.storage_offset())
    require(layout == ((2, 3), (3, 1), 1), "the layout is as asked")
    require(wrapper.device == CPU and not wrapper._is_view(), "the tensor is the CPU's, and no view")


def _check_torch_function() -> None:
    wrapper = wrapper_tensor(_Wrapper, (2,), (1,), 0, torch.float32)
    require(bool(wrapper + 1), "operators arrive at __torch_dispatch__ without a detour")


def _check_guard() -> None:
    plain, zeros = torch.zeros(2), torch.zeros(2)
    plain.data = wrapper_tensor(_Wrapper, (2,), (1,), 0, torch.float32)
    touches: tuple[Callable[[], Any], ...] = (plain.sum, plain.clone, lambda: plain[0], lambda: zeros.copy_(plain))
    for touch in touches:
        try:
            touch()
        except NoMemoryHere:
            continue
        raise AssertionError("not so: whatever reads memory that is not there raises")
    try:
        plain.data_ptr()
    except RuntimeError:
        return
    raise AssertionError("not so: a pointer to memory that is not there cannot be had")


def _check_take_over() -> None:
    wrapper, local = wrapper_tensor(_Wrapper, (2,), (1,), 0, torch.float32), torch.ones(3, 2)
    take_over(wrapper, local)
    require(type(wrapper) is _Wrapper and bool(wrapper + 1), "the class stays, and its answers")
    require(wrapper.shape == (3, 2), "the layout is the other's")
    require(torch.Tensor.data_ptr(wrapper) == local.data_ptr(), "so is the memory")


def _check_answers() -> None:
    wrapper = wrapper_tensor(_Wrapper, (2,), (1,), 0, torch.float32)
    with _SetExcludeDispatchKeyGuard(DispatchKey.Python, True):
        require(not answers_in_python(), "dispatch to Python can be turned off")
        with answering_in_python():
            require(bool(wrapper + 1), "and on again")


PROBES = (
    Probe("torch.Tensor._make_wrapper_subclass", "makes tensors whose elements live in a daemon", _check_wrapper),
    Probe("torch._C._disabled_torch_function_impl", "has operators on them arrive undisguised", _check_torch_function),
    Probe("torch._C._dispatch_key_parse", "has kernels raise that would read memory elsewhere", _check_guard),
    Probe("torch._C.DispatchKeySet", "has kernels raise that would read memory elsewhere", _check_guard),
    Probe("torch._C.DispatchKey", "tells when C++ code goes past a tensor's class", lambda: DispatchKey.Python),
    Probe("torch._C._set_throw_on_mutable_data_ptr", "gives out no pointer to memory elsewhere", _check_guard),
    Probe("torch.Tensor.data", "brings the memory of a tensor here without another tensor", _check_take_over),
    Probe(
        "torch._C._dispatch_tls_is_dispatch_key_excluded",
        "tells when C++ code goes past a tensor's class",
        lambda: require(answers_in_python(), "outside of such code it does not"),
    ),
    Probe("torch._C._SetExcludeDispatchKeyGuard", "answers C++ code that goes past a tensor's class", _check_answers),
)
