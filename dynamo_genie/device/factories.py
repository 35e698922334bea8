"""What PyTorch calls to make a tensor on `remote_accelerator`: kernels of its dispatch key, and of nothing else.

PyTorch makes `zeros`, `randn`, `arange` and most others of `empty` and a write in place, so three suffice for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device.operators import copy_into, upload
from dynamo_genie.device_name import NAME
from dynamo_genie.errors import NoMemoryHere
from dynamo_genie.tensor.eager import create
from dynamo_genie.torch_internals.opaque import opaque
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves

aten = torch.ops.aten


@opaque
def empty(
    size: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """Make a tensor whose elements are not said."""
    like = torch.empty(size, dtype=dtype, device="meta", memory_format=memory_format)
    return empty_strided(size, like.stride(), like.dtype, layout, device)


@opaque
def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """Make a tensor whose elements are not said, in these strides.

    Raises:
        NotImplementedError: It is to be sparse, or in pinned memory.
    """
    if layout not in (None, torch.strided) or pin_memory:
        raise NotImplementedError(f"tensors on {device} are strided and not pinned, not {layout}")
    session = DEVICES.session(DEVICES.index(device))
    options = {"dtype": dtype or torch.get_default_dtype()}
    made: torch.Tensor = create(aten.empty_strided.default, (list(size), list(stride)), options, session, DeviceTensor)
    return made


@opaque
def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Write the values of one tensor into another, one of which is on the device."""
    return copy_into(target, source)


@opaque
def make(operator: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run any other operator that makes tensors of numbers alone.

    Raises:
        NoMemoryHere: It has tensors: one on the device that C++ code has taken the class from.
    """
    if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))):
        raise NoMemoryHere(
            f"{operator} would read memory that is on {NAME}: C++ code asks for it past the tensor's class; bring the "
            "tensor here with .cpu()"
        )
    session = DEVICES.session(DEVICES.index(kwargs.get("device")))
    kwargs = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory", "layout")}
    return create(operator, args, kwargs, session, DeviceTensor)


@opaque
def make_here(
    operator: OpOverload,
    *args: Any,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """Make on the client what C++ code fills as it makes it and no daemon makes, and send it."""
    return upload(operator(*args, dtype=dtype), torch.device(NAME, DEVICES.index(device)))


KERNELS: tuple[tuple[str, Any], ...] = (
    ("empty.memory_format", empty),
    ("empty_strided", empty_strided),
    ("_copy_from", copy_from),
    *(
        (overload._name.removeprefix("aten::"), partial(make_here, overload))
        for overload in (aten.kaiser_window.default, aten.kaiser_window.periodic, aten.kaiser_window.beta)
    ),
)
