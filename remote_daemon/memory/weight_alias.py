"""Tensors of one session in the memory of shared weights: with views of their own, and never written.

A tensor that a session may view and write needs to be told from another one with the same content. So each gets a
storage of its own in the same memory; what lies in that is a tensor and its views. Who writes to one of them moves all
of them to a copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dynamo_genie.remote_daemon.memory.host_pool import TensorLayout
from dynamo_genie.remote_daemon.memory.layout_overlap import layouts_overlap
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight
from dynamo_genie.tensors import flat_bytes


@dataclass(eq=False, slots=True)
class WeightAlias:
    """A tensor in the memory of a weight, and its views.

    Attributes:
        layouts: How each lies there, by handle.
        storage: The address of their storage; 0 while the weight is offloaded.
    """

    weight: ResidentWeight
    layouts: dict[int, TensorLayout] = field(default_factory=dict)
    storage: int = 0


class WeightAliases:
    """The aliases of one session, by handle."""

    def __init__(self) -> None:
        self._of_handle: dict[int, WeightAlias] = {}
        self._of_storage: dict[int, WeightAlias] = {}

    def __bool__(self) -> bool:
        return bool(self._of_handle)

    def of(self, handle: int) -> WeightAlias | None:
        """Return the alias in which a handle's tensor lies, None where it lies in none."""
        return self._of_handle.get(handle)

    def begin(self, handle: int, weight: ResidentWeight) -> WeightAlias:
        """Let a handle name a weight as a tensor of its own; `place` gives the tensor."""
        alias = WeightAlias(weight, {handle: TensorLayout.of_spec(weight.spec)})
        self._of_handle[handle] = alias
        return alias

    def place(self, alias: WeightAlias, tensor: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return the tensors of an alias by handle, now that the weight has this tensor."""
        storage = _storage_of_its_own(tensor)
        alias.storage = storage._cdata
        self._of_storage[alias.storage] = alias
        return {handle: layout.on(storage) for handle, layout in alias.layouts.items()}

    def unplace(self, alias: WeightAlias) -> None:
        """Note that the weight of an alias was offloaded."""
        self._of_storage.pop(alias.storage, None)
        alias.storage = 0

    def join(self, handle: int, tensor: torch.Tensor) -> ResidentWeight | None:
        """Take in a view, if it is one; return the weight in whose memory it lies."""
        alias = self._of_storage.get(tensor.untyped_storage()._cdata)
        if alias is None:
            return None
        alias.layouts[handle] = TensorLayout.of(tensor)
        self._of_handle[handle] = alias
        return alias.weight

    def leave(self, handle: int) -> None:
        """Forget a handle; any other is ignored."""
        alias = self._of_handle.pop(handle, None)
        if alias is not None:
            del alias.layouts[handle]
            if not alias.layouts:
                self.unplace(alias)

    def overlapping(self, handle: int) -> list[int]:
        """Return the handles whose elements a write to this one's would change, itself included."""
        layouts = self._of_handle[handle].layouts
        return [other for other, layout in layouts.items() if layouts_overlap(layouts[handle], layout)]


def _storage_of_its_own(tensor: torch.Tensor) -> torch.UntypedStorage:
    """Return another storage object on the memory of a dense tensor, which it keeps alive."""
    storage: torch.UntypedStorage = torch.from_dlpack(flat_bytes(tensor)).untyped_storage()
    return storage
