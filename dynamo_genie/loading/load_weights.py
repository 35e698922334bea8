"""`load_weights`: a model's parameters become tensors of a device, made by its daemon from a file that it has.

Nothing crosses but names. What the file lacks and the model has real is moved to the device, so that the model lives
in one place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import torch

from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device.register import register_device
from dynamo_genie.device_name import NAME
from dynamo_genie.errors import ModelFileError, OptionError
from dynamo_genie.loading.made_buffers import make_buffers
from dynamo_genie.loading.slots import LoadedWeights, Target, plan_loading
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.weights.progress import LONG_NBYTES, weights_bar
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_STRING
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import TORCH_DTYPES, spec_nbytes, wire_dtype

GROUP_NBYTES, GROUP_ITEMS = 64 << 20, 512
"""What is asked for at once: a daemon serves others in between, and the bar moves on."""


def load_weights(
    model: torch.nn.Module,
    name: str | os.PathLike[str],
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
    progress: bool = True,
) -> LoadedWeights:
    """See `dynamo_genie.api.load_weights`."""
    _check(model, dtype)
    name = _checked_name(name)
    model = getattr(model, "_orig_mod", model)  # of one that `torch.compile` wraps
    register_device()
    place = torch.device(NAME, DEVICES.index(device))
    session = DEVICES.session(place.index)
    with session.lock:
        session.check()
        stored = session.weight_channel.model_tensors(name)
    plan = plan_loading(model, stored, name, strict=strict)
    make_buffers(model, plan.left)
    loaded = _load(session, name, [tensor for _, tensor in plan.chosen], dtype, shown=progress and sys.stderr.isatty())
    with torch.no_grad():
        for (target, _), tensor in zip(plan.chosen, loaded, strict=True):
            target.put(tensor)
        _move(plan.left, place)
    return plan.unmatched


def _check(model: torch.nn.Module, dtype: torch.dtype | None) -> None:
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"load_weights() fills a model, a torch.nn.Module, not {model!r:.100}")
    if dtype is not None and not getattr(dtype, "is_floating_point", False):
        raise OptionError(f"load_weights() takes a floating point dtype, as torch.float16, not {dtype!r:.100}")


def _checked_name(name: object) -> str:
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str) or len(text) > MAX_STRING or not _is_text(text):
        raise OptionError(
            f"load_weights() takes the name of a model as `genie models` lists it, a string of at most {MAX_STRING:,} "
            f"characters, not {name!r:.100}"
        )
    return text


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _load(
    session: Session, name: str, tensors: Sequence[m.ModelTensor], dtype: torch.dtype | None, *, shown: bool
) -> list[DeviceTensor]:
    """Have the daemon load tensors of a model; return them."""
    wanted = "" if dtype is None else wire_dtype(dtype)
    nbytes = sum(map(_nbytes, tensors))
    made: list[DeviceTensor] = []
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        if shown and nbytes > LONG_NBYTES:
            advance = stack.enter_context(weights_bar(nbytes, "loading weights"))
        for group in _groups(tensors):
            handles = [session.new_handle() for _ in group]
            names = [tensor.name for tensor in group]
            with session.lock:
                session.check()
                specs = session.weight_channel.load([handle.id for handle in handles], name, names, wanted)
            _require_as_described(group, specs, name)
            made += [_device_tensor(handle, spec) for handle, spec in zip(handles, specs, strict=True)]
            if advance is not None:
                advance(sum(map(_nbytes, group)))
    return made


def _require_as_described(group: Sequence[m.ModelTensor], specs: Sequence[TensorSpec], name: str) -> None:
    for tensor, spec in zip(group, specs, strict=True):
        if spec.shape != tensor.shape:
            raise ModelFileError(f"{tensor.name!r} of {name!r} was replaced while it was loaded; load the model again")


def _nbytes(tensor: m.ModelTensor) -> int:
    return spec_nbytes(TensorSpec(tensor.dtype, tensor.shape, ()))


def _groups(tensors: Sequence[m.ModelTensor]) -> Iterator[list[m.ModelTensor]]:
    """Yield tensors in the order of their file, so many at once as are asked for together."""
    group: list[m.ModelTensor] = []
    nbytes = 0
    for tensor in tensors:
        if group and (nbytes + _nbytes(tensor) > GROUP_NBYTES or len(group) >= GROUP_ITEMS):
            yield group
            group, nbytes = [], 0
        group.append(tensor)
        nbytes += _nbytes(tensor)
    if group:
        yield group


def _device_tensor(handle: Handle, spec: TensorSpec) -> DeviceTensor:
    return DeviceTensor(spec.shape, spec.stride, TORCH_DTYPES[spec.dtype], handle)


def _move(left: Sequence[Target], place: torch.device) -> None:
    """Move what is real and not there yet."""
    for target in left:
        tensor = target.slots[0].tensor  # a buffer that was made is there since the plan
        if not tensor.is_meta and tensor.device != place:
            target.put(tensor.detach().to(place))
