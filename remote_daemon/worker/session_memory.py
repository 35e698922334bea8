"""The memory of one session: its own tensors, counted per storage, offloaded to host memory and reloaded.

A storage moves whole, with all tensors that lie in it, so that views share their memory wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from dynamo_genie.remote_daemon.memory.host_pool import HostPool, TensorLayout
from dynamo_genie.remote_daemon.memory.kv_arena import Arena, KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.session_share import SessionShare
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight
from dynamo_genie.runtime.wire.messages import ErrorInfo


@dataclass(frozen=True)
class Poison:
    """Stands where a tensor would be, had the call that makes it not failed."""

    error: ErrorInfo


@dataclass(slots=True)
class ResidentStorage:
    """A storage in the device's memory, and the handles whose tensors lie in it."""

    nbytes: int
    handles: set[int]


@dataclass(slots=True)
class OffloadedStorage:
    """A storage whose bytes lie in host memory.

    Attributes:
        host: The bytes, flat, uint8.
        layouts: The tensors that lie in it, by handle.
        arena: How far it is filled, if it is one.
    """

    host: torch.Tensor
    layouts: dict[int, TensorLayout]
    arena: Arena | None


HandleValue: TypeAlias = torch.Tensor | Poison | OffloadedStorage | ResidentWeight
"""What a handle names: a tensor, why there is none, or where its bytes are while it is not in the device's memory."""


class SessionMemory:
    """The tensors of one session by handle, and the storages that they lie in.

    Attributes:
        resident_nbytes: Bytes of own tensors in the device's memory.
        offloaded_nbytes: Bytes of own tensors in host memory, where they wait to be used.
        in_temporaries: Storages (by address) that a program made: they lie in the temporary allocator's memory.
        epoch: Rises whenever a handle that a binding may name comes to name another tensor, or none.
    """

    def __init__(self, budget: MemoryBudget, arenas: KVArenas, host: HostPool | None, share: SessionShare) -> None:
        self._budget = budget
        self._share = share
        self._arenas = arenas
        self._host = host
        self._values: dict[int, HandleValue] = {}
        self._storages: dict[int, ResidentStorage] = {}
        self.resident_nbytes = 0
        self.offloaded_nbytes = 0
        self.in_temporaries: set[int] = set()
        self.epoch = 0

    def offload(self, enough: Callable[[], bool]) -> None:
        """Move own storages to host memory, the largest first, until there is enough room or none may go."""
        if self._host is None:
            return
        for key in sorted(self._storages, key=lambda key: self._storages[key].nbytes, reverse=True):
            if enough():
                return
            host = self._host.offload(self._storage(key))
            if host is not None:
                layouts = self._remove(key)
                self._values.update(dict.fromkeys(layouts, OffloadedStorage(host, layouts, self._arenas.remove(key))))
                self.offloaded_nbytes += host.numel()

    def move_to_pool(self, handles: Iterable[int]) -> None:
        """Move temporaries that turned out to be residents, a Static cache say, to the resident pool, if it has room.

        Left with the temporaries, it would keep the memory around it from being given back.
        """
        for handle in handles:
            value = self._values.get(handle)
            if not isinstance(value, torch.Tensor):
                continue
            key = value.untyped_storage()._cdata
            if key not in self.in_temporaries:
                continue
            self.in_temporaries.discard(key)
            assert self._host is not None
            storage = self._host.copy_to_pool(value.untyped_storage())
            if storage is not None:
                self._place(self._remove(key), storage)

    def _reload(self, offloaded: OffloadedStorage) -> None:
        assert self._host is not None
        nbytes = offloaded.host.numel()
        storage = self._host.reload(offloaded.host, f"a tensor of {nbytes:,} bytes")
        self._place(offloaded.layouts, storage)
        if offloaded.arena is not None:
            self._arenas.add(storage, offloaded.arena)
        self.offloaded_nbytes -= nbytes

    # --- references --------------------------------------------------------------------------------------------

    def _hold(self, handle: int, tensor: torch.Tensor, *, made: bool) -> None:
        """Let a handle name a tensor; `made` says that a program made it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._storages.get(key)
        if known is not None:
            known.handles.add(handle)
        else:
            nbytes = storage.nbytes()
            self._share.require(nbytes, "a tensor")
            self._budget.reserve(nbytes, f"a tensor of {nbytes:,} bytes")
            self.resident_nbytes += nbytes
            self._share.resident += nbytes
            self._storages[key] = ResidentStorage(nbytes, {handle})
            if made and self._host is not None and not self._arenas.holds(key):
                self.in_temporaries.add(key)
        self._values[handle] = tensor

    def _drop(self, handle: int, tensor: torch.Tensor) -> None:
        """Drop a handle's reference to a tensor's storage; the last one frees it."""
        key = tensor.untyped_storage()._cdata
        known = self._storages[key]
        known.handles.discard(handle)
        if not known.handles:
            del self._storages[key]
            self.in_temporaries.discard(key)
            self.resident_nbytes -= known.nbytes
            self._share.resident -= known.nbytes
            self._budget.release(known.nbytes)

    def _drop_offloaded(self, handle: int, offloaded: OffloadedStorage) -> None:
        assert self._host is not None
        del offloaded.layouts[handle]
        if not offloaded.layouts:
            self.offloaded_nbytes -= offloaded.host.numel()
            self._host.free(offloaded.host)

    # --- storages ----------------------------------------------------------------------------------------------

    def _neighbours(self, value: torch.Tensor | OffloadedStorage) -> dict[int, TensorLayout]:
        """Return how all tensors lie that share a storage, by handle."""
        if isinstance(value, OffloadedStorage):
            return dict(value.layouts)
        return self._layouts(self._storages[value.untyped_storage()._cdata])

    def _storage(self, key: int) -> torch.UntypedStorage:
        tensor = self._values[next(iter(self._storages[key].handles))]
        assert isinstance(tensor, torch.Tensor)
        return tensor.untyped_storage()

    def _remove(self, key: int) -> dict[int, TensorLayout]:
        """Forget a storage and return how its tensors lie in it, by handle; they must be given other values."""
        known = self._storages.pop(key)
        self.in_temporaries.discard(key)
        self.resident_nbytes -= known.nbytes
        self._share.resident -= known.nbytes
        self.epoch += 1
        return self._layouts(known)

    def _layouts(self, known: ResidentStorage) -> dict[int, TensorLayout]:
        tensors = {handle: self._values[handle] for handle in known.handles}
        return {h: TensorLayout.of(tensor) for h, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}

    def _place(self, layouts: dict[int, TensorLayout], storage: torch.UntypedStorage) -> None:
        """Let tensors lie in a storage as they lay in another one, which was removed."""
        for handle, layout in layouts.items():
            self._values[handle] = layout.on(storage)
        self._storages[storage._cdata] = ResidentStorage(storage.nbytes(), set(layouts))
        self.resident_nbytes += storage.nbytes()
        self._share.resident += storage.nbytes()
