"""Eager operators on `remote_accelerator`: those that move values between devices, and the rule that all others keep.

An operator runs where its tensors are, and they are all in one place: tensors on two devices are refused, as CUDA
refuses them, save a CPU tensor of one element, which counts as a number, and indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import locked
from dynamo_genie.device.composites import COMPOSITES
from dynamo_genie.device.device_storage import DeviceStorage
from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device.loss_scaling import unscale, update_scale
from dynamo_genie.device.offered import take_from_daemon
from dynamo_genie.device_name import NAME
from dynamo_genie.tensor.eager import create, run_operator
from dynamo_genie.tensor.memory_here import read
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.tensor.run_here import Args, Kwargs, Way, send_values, way_of
from dynamo_genie.tensors import is_dense
from dynamo_genie.torch_internals.device.kernels import aten_overload
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten


def run_on_device(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Run an operator, at least one of whose arguments is on a device; returns what eager returns there.

    Raises:
        RuntimeError: Its tensors are on several devices.
    """
    device, other, traced = _places(args, kwargs)
    if traced or not isinstance(func, OpOverload):
        return run_operator(func, args, kwargs)
    transfer = _TRANSFERS.get(func)
    if transfer is not None:
        return transfer(args, kwargs)
    composite = _COMPOSITES.get(func)  # in inference mode they arrive whole
    if composite is not None:
        return composite(*args, **kwargs)
    if way_of(func) is Way.TAKEN_APART:
        return func.decompose(*args, **kwargs)
    if "device" in kwargs:
        wanted = kwargs["device"]
        kwargs = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
        if wanted is not None and torch.device(wanted) != device:
            return _made_elsewhere(func, args, kwargs, torch.device(wanted))
    if other is not None and not _takes_indices(func):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {device} and {other}! "
            f"(when checking arguments of {func})"
        )
    result = run_operator(func, args, kwargs)
    if DEVICES.immediate and device is not None:
        DEVICES.synchronize(device.index)
    return result


def _places(args: Args, kwargs: Kwargs) -> tuple[torch.device | None, torch.device | None, bool]:
    """Return the device of the first tensor on one, another place where some tensor is, and whether any is traced."""
    device = other = plain = None
    for tensor in _tensors(args, kwargs):
        if isinstance(tensor, DeviceTensor):
            if tensor.traced:
                return tensor.device, None, True
            if device is None:
                device = tensor.device
            elif tensor.device != device:
                other = tensor.device
        elif tensor.dim():
            plain = tensor.device
    return device, other or plain, False


def _tensors(args: Args, kwargs: Kwargs) -> Iterator[torch.Tensor]:
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from (item for item in value if isinstance(item, torch.Tensor))


_FROM_CPU = frozenset({"indices", "input_lengths", "target_lengths"})


@cache
def _takes_indices(func: OpOverload) -> bool:
    """Whether an operator takes tensors that say which elements are meant, or how many; those may be on the CPU."""
    return any(argument.name in _FROM_CPU for argument in func._schema.arguments)


# --- from one device to another --------------------------------------------------------------------------


def _to_copy(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """Copy to another dtype, layout or device."""
    tensor = args[0]
    options = {name: kwargs[name] for name in ("dtype", "memory_format") if kwargs.get(name) is not None}
    wanted = kwargs.get("device")
    target = tensor.device if wanted is None else _with_index(torch.device(wanted))
    if target.type == NAME:
        if target != tensor.device:
            tensor = move(tensor, target) if isinstance(tensor, DeviceTensor) else upload(tensor, target)
            if not options:
                return tensor
        return run_operator(aten._to_copy.default, (tensor,), options)  # type: ignore[no-any-return]
    narrow = options.get("dtype")
    if narrow is not None and narrow.itemsize < tensor.itemsize:
        tensor = run_operator(aten._to_copy.default, (tensor,), options)
    return aten._to_copy.default(read(tensor), **{**options, "device": target})  # type: ignore[no-any-return]


def upload(plain: torch.Tensor, target: torch.device) -> DeviceTensor:
    """Send a plain tensor's values to a device; elements without holes keep their strides."""
    return send_values(plain, DEVICES.session(DEVICES.index(target)), DeviceTensor)


def move(tensor: RemoteTensor, target: torch.device) -> DeviceTensor:
    """Copy a tensor from one daemon to another, without a byte of it coming here."""
    session = DEVICES.session(DEVICES.index(target))
    shape, stride = tuple(tensor.shape), tensor.stride()
    if not is_dense(shape, stride):
        tensor = run_operator(aten.clone.default, (tensor,), {"memory_format": torch.contiguous_format})
        stride = tensor.stride()
    handle = tensor.named()
    if handle.session is session:  # two names of one daemon
        return DeviceTensor(shape, stride, tensor.dtype, run_operator(aten.clone.default, (tensor,), {}).handle)
    with locked((handle.session, session)):
        moved = CONNECTIONS.mesh.move(handle, session)
    return DeviceTensor(shape, stride, tensor.dtype, moved)


def copy_into(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Write the values of one tensor into another, whatever devices they are on."""
    if not isinstance(target, DeviceTensor):
        return target.copy_(read(source) if isinstance(source, RemoteTensor) else source)
    if take_from_daemon(target, source):
        return target
    if isinstance(source, RemoteTensor) and source.named().session is not target.named().session:
        source = move(source, target.device)
    elif not isinstance(source, RemoteTensor) and source.device.type != "cpu":
        source = source.cpu()
    run_operator(aten.copy_.default, (target, source), {})
    return target


def _copy_(args: Args, kwargs: Kwargs) -> torch.Tensor:
    return copy_into(args[0], args[1])


def _copy(args: Args, kwargs: Kwargs) -> torch.Tensor:
    target = args[0].clone()
    return copy_into(target, args[1])


def _with_index(device: torch.device) -> torch.device:
    return torch.device(NAME, DEVICES.current) if str(device) == NAME else device


def _made_elsewhere(func: OpOverload, args: Args, kwargs: Kwargs, device: torch.device) -> Any:
    """Run what makes a new tensor after the example of one on a device, but makes it on another."""
    example, *rest = args
    device = _with_index(device)
    if device == example.device:
        return run_operator(func, args, kwargs)
    stand_in = torch.empty_strided(example.shape, example.stride(), dtype=example.dtype, device=device)
    return func(stand_in, *rest, **kwargs)


# --- without a daemon ------------------------------------------------------------------------------------


def _resize_(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """Give a tensor another shape: what fits its memory is a view of that, anything else begins anew."""
    tensor, size = args[0], tuple(args[1])
    like = torch.empty(size, device="meta")
    if like.numel() * tensor.itemsize <= tensor.memory_nbytes - tensor.storage_offset() * tensor.itemsize:
        tensor.become(run_operator(aten.as_strided.default, (tensor, size, like.stride(), tensor.storage_offset()), {}))
        return tensor  # type: ignore[no-any-return]
    grown = create(
        aten.zeros.default, (list(size),), {"dtype": tensor.dtype}, DEVICES.session(tensor.device.index), DeviceTensor
    )
    if tensor.numel():
        kept = run_operator(aten.view.default, (tensor.contiguous(), (-1,)), {})
        run_operator(aten.as_strided.default, (grown, (tensor.numel(),), (1,)), {}).copy_(kept)
    tensor.become(grown)
    return tensor  # type: ignore[no-any-return]


def _resize_as_(args: Args, kwargs: Kwargs) -> torch.Tensor:
    return _resize_((args[0], args[1].shape), kwargs)


def _set_(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """Let a tensor be another one from now on."""
    tensor, source = args
    tensor.become(source)
    return tensor  # type: ignore[no-any-return]


def _set_to_storage(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """Let a tensor be a view of the memory that a storage stands for.

    Raises:
        RuntimeError: That memory is not on the device.
    """
    tensor, storage, *layout = args
    if not isinstance(storage, DeviceStorage):
        raise RuntimeError(f"a tensor on {tensor.device} cannot be set to a storage on {storage.device}")
    whole = storage.whole(tensor.dtype)
    if layout:
        offset, size, stride = (*layout, ())[:3]
        whole = whole.as_strided(size, stride, offset)
    tensor.become(whole)
    return tensor  # type: ignore[no-any-return]


def _histc(args: Args, kwargs: Kwargs) -> torch.Tensor:
    """Count whole numbers, too: all devices but the CPU do, so models that ask where they are expect it."""
    data, *rest = args
    counted = run_operator(aten.histc.default, (data if data.is_floating_point() else data.float(), *rest), kwargs)
    return counted.to(data.dtype)  # type: ignore[no-any-return]


_TRANSFERS: MappingProxyType[Any, Callable[[Args, Kwargs], Any]] = MappingProxyType(
    {
        aten._to_copy.default: _to_copy,
        aten.copy_.default: _copy_,
        aten.copy.default: _copy,
        aten.resize_.default: _resize_,
        aten.resize_as_.default: _resize_as_,
        aten.set_.source_Tensor: _set_,
        aten.set_.source_Storage: _set_to_storage,
        aten.set_.source_Storage_storage_offset: _set_to_storage,
        aten._amp_foreach_non_finite_check_and_unscale_.default: lambda args, kwargs: unscale(*args, **kwargs),
        aten._amp_update_scale_.default: lambda args, kwargs: update_scale(*args, **kwargs),
        aten.histc.default: _histc,
        aten.record_stream.default: lambda args, kwargs: None,
        aten.is_pinned.default: lambda args, kwargs: False,
    }
)
_COMPOSITES: MappingProxyType[Any, Callable[..., Any]] = MappingProxyType(
    {aten_overload(name): function for name, function in COMPOSITES}
)
DeviceTensor.run_operator = staticmethod(run_on_device)
