"""`torch.load(..., map_location="remote_accelerator:N")`: each storage in a file is sent whole, and tensors view it.

PyTorch makes a tensor of a storage by `set_`, which finds here whose bytes are meant (`operators`).
"""

from __future__ import annotations

from typing import Any

import torch

from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.operators import upload
from dynamo_genie.torch_internals.opaque import opaque, opaque_class


@opaque_class
class DeviceStorage(torch.UntypedStorage):
    """A storage without bytes that stands for those of a tensor on the device.

    Attributes:
        genie_contents: That tensor, of one dimension and of bytes.
    """

    genie_contents: DeviceTensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # an attribute there
        """Return the device that has the bytes."""
        return self.genie_contents.device

    def data_ptr(self) -> int:
        """Return a number that is the storage's own; there is no address here, and 0 would say there is nothing."""
        return self.genie_contents.data_ptr()


@opaque
def restore_storage(storage: torch.UntypedStorage, location: str) -> Any:
    """Return the storage on the device of what was read from a file."""
    plain = torch.empty(0, dtype=torch.uint8).set_(storage)
    there = DeviceStorage(0)  # type: ignore[no-untyped-call]
    there.genie_contents = upload(plain, torch.device(location))
    return there
