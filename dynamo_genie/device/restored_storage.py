"""`torch.load(..., map_location="remote_accelerator:N")`: each storage in a file is sent whole, and tensors view it.

PyTorch makes a tensor of a storage by `set_`, which finds here whose bytes are meant (`operators`).
"""

from __future__ import annotations

from typing import Any

import torch

from dynamo_genie.device.device_storage import DeviceStorage
from dynamo_genie.device.operators import upload
from dynamo_genie.torch_internals.opaque import opaque


@opaque
def restore_storage(storage: torch.UntypedStorage, location: str) -> Any:
    """Return the storage on the device of what was read from a file."""
    plain = torch.empty(0, dtype=torch.uint8).set_(storage)
    return DeviceStorage.of(upload(plain, torch.device(location)))
