"""`DeviceTensor`: a remote tensor that says where it is. It is never brought here; what is read is a copy."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn

import torch

from dynamo_genie.device.device_storage import DeviceStorage
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device_name import NAME
from dynamo_genie.runtime.session.session import Handle
from dynamo_genie.tensor.memory_here import read
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.tensors import tensor_bytes
from dynamo_genie.torch_internals.capture import is_tracing
from dynamo_genie.torch_internals.device.kernels import rebuild_parameter, rebuild_tensor
from dynamo_genie.torch_internals.fake import is_described
from dynamo_genie.torch_internals.opaque import opaque_class
from dynamo_genie.torch_internals.tensors import text_with_history

_DATA = re.compile(r"(tensor\((?:.*\]|[^,)]*))(.*)\)", re.DOTALL)
"""What `repr` prints of a tensor: its elements, then what else is to be said."""


@opaque_class
class DeviceTensor(RemoteTensor):
    """A tensor on `remote_accelerator:N`."""

    stays = True

    @classmethod
    def place_of(cls, handle: Handle | None) -> torch.device:
        """Return the device on whose session the elements are."""
        return DEVICES.place_of(handle.session) if handle is not None else torch.device(NAME, DEVICES.current)

    # --- reading ---------------------------------------------------------------------------------------

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]  # torch: untyped
        """Print as PyTorch prints what is on a device."""
        if self.traced:
            return f"DeviceTensor(shape={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}')"
        text = _DATA.sub(rf"\1, device='{self.device}'\2)", repr(read(self)), count=1)
        if self.grad_fn is not None:
            text = text_with_history(text, self.grad_fn)
        elif self.requires_grad:
            text = text[:-1] + ", requires_grad=True)"
        return f"Parameter containing:\n{text}" if getattr(self, "_is_param", False) else text

    def numpy(self, *, force: bool = False) -> Any:
        """Return a copy as an array, where that is asked for by force; memory elsewhere cannot be shared."""
        if not force:
            _refuse_numpy(self)
        return read(self).resolve_conj().resolve_neg().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Refuse, as every device does."""
        _refuse_numpy(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle (and `torch.save`) as PyTorch does: the storage with the device's name, and how this views it."""
        if getattr(self, "_is_param", False):
            return rebuild_parameter, (self.detach(), self.requires_grad, OrderedDict())
        plain = self.resolve_conj().resolve_neg()
        layout = plain.storage_offset(), tuple(plain.shape), plain.stride()
        return rebuild_tensor, (plain._typed_storage(), *layout, self.requires_grad, OrderedDict())

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        """Copy in the daemon; a parameter's copy is one."""
        copy = super().__deepcopy__(memo)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        return copy

    # --- memory ----------------------------------------------------------------------------------------

    def data_ptr(self) -> int:
        """Return a number that tensors in one memory share, elements apart; there is no address here."""
        if self.traced:
            return super().data_ptr()
        return (id(self.memory) << 8) + int(self.storage_offset()) * self.itemsize

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return a storage that says where the memory is; to who describes the tensor for a graph, one of its size."""
        if self.traced:
            return torch.UntypedStorage(0)
        if is_tracing() or is_described(sys._getframe(1)):
            return torch.UntypedStorage(self.memory_nbytes, device="meta")
        return DeviceStorage.of(self)

    def _typed_storage(self) -> Any:
        return torch.TypedStorage(wrap_storage=self.untyped_storage(), dtype=self.dtype, _internal=True)

    def storage(self) -> Any:
        """Return the same as elements, in the form that PyTorch deprecates."""
        return self._typed_storage()

    def new_tensor(self, data: Any, **wanted: Any) -> torch.Tensor:  # type: ignore[override]
        """Return a new tensor of this dtype on this device, unless others are wanted."""
        device = wanted.pop("device", None) or self.device
        return torch.empty(0, dtype=self.dtype).new_tensor(data, **wanted).to(device)

    def new(self, *args: Any, **wanted: Any) -> torch.Tensor:  # type: ignore[override]
        """Return a new tensor of this dtype on this device, in the form that PyTorch deprecates."""
        return torch.empty(0, dtype=self.dtype).new(*args, **wanted).to(self.device)

    def share_memory_(self) -> Any:
        """Do nothing: other processes do not see a daemon's memory."""
        return self

    def is_shared(self) -> bool:
        """Say what PyTorch says of tensors on a device."""
        return True


def _refuse_numpy(tensor: torch.Tensor) -> NoReturn:
    raise TypeError(
        f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
        "memory first."
    )


def _reduce_for_process(tensor: DeviceTensor) -> Any:
    """Send another process the values, which it puts on its own device of the same name."""
    values = read(tensor.resolve_conj().resolve_neg()).contiguous()
    layout = values.dtype, tuple(values.shape), str(tensor.device), tensor.requires_grad and tensor.is_leaf
    return _put_on_device, (bytes(tensor_bytes(values)), *layout)


def _put_on_device(data: bytes, dtype: torch.dtype, shape: tuple[int, ...], device: str, grad: bool) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(shape).to(device).requires_grad_(grad)


ForkingPickler.register(DeviceTensor, _reduce_for_process)
