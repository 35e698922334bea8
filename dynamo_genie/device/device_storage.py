"""The storage of a tensor on the device, for who asks which memory it lives in and how large that is.

Libraries find weights that are tied, or that share memory, by the addresses and sizes of storages.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from dynamo_genie.errors import NoMemoryHere
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.opaque import opaque_class


@opaque_class
class DeviceStorage(torch.UntypedStorage):
    """A storage that stands for memory in a daemon and has no bytes here.

    Attributes:
        tensor: A tensor on that memory.
    """

    tensor: RemoteTensor

    @classmethod
    def of(cls, tensor: RemoteTensor) -> DeviceStorage:
        """Return the storage in which a tensor lives."""
        storage = cls(0)
        storage.tensor = tensor
        return storage

    def whole(self, dtype: torch.dtype) -> torch.Tensor:
        """Return all of the memory as a tensor of one dimension."""
        count = self.nbytes() // self.tensor.itemsize
        return self.tensor.as_strided((count,), (1,), 0).view(dtype)

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # an attribute there
        """Return the device that has the bytes."""
        return self.tensor.device

    @property
    def _cdata(self) -> int:
        return id(self.tensor.memory)

    def data_ptr(self) -> int:
        """Return a number that is the memory's own; there is no address here."""
        return id(self.tensor.memory) << 8

    def nbytes(self) -> int:
        """Return the size of the memory in bytes."""
        return self.tensor.memory_nbytes

    size = __len__ = nbytes

    def clone(self) -> Any:
        """Return a storage on a copy of the memory."""
        return DeviceStorage.of(self.whole(torch.uint8).clone())  # type: ignore[arg-type]

    def cpu(self) -> torch.UntypedStorage:
        """Return a copy in plain memory."""
        return self.whole(torch.uint8).cpu().untyped_storage()

    def _write_file(self, *arguments: Any) -> None:
        self.cpu()._write_file(*arguments)

    def _set_from_file(self, *arguments: Any) -> DeviceStorage:
        plain = torch.UntypedStorage(self.nbytes())
        plain._set_from_file(*arguments)
        self.whole(torch.uint8).copy_(torch.empty(0, dtype=torch.uint8).set_(plain))
        return self

    def tolist(self) -> list[int]:
        """Return the bytes."""
        return self.whole(torch.uint8).tolist()

    def resize_(self, size: int) -> NoReturn:
        """Refuse, as do the other methods that need memory here.

        Raises:
            NoMemoryHere: Always.
        """
        raise NoMemoryHere(f"a storage on {self.device} has no bytes here; use tensors on it, or .cpu() for a copy")

    copy_ = fill_ = __getitem__ = __setitem__ = _share_filename_cpu_ = _share_fd_cpu_ = resize_  # type: ignore[assignment]
