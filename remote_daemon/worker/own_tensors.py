"""The memory of one session's own tensors: counted per storage, moved to host memory and back, settled where it stays.

A storage goes and comes whole, with all tensors that lie in it, so that views share their memory wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.offloaded import HostSpace, Layout, SpilledStorage
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight
from dynamo_genie.runtime.wire.messages import ErrorInfo


@dataclass(frozen=True)
class Poison:
    """Stands where a tensor would be, had the call that makes it not failed."""

    error: ErrorInfo


Value: TypeAlias = torch.Tensor | Poison | SpilledStorage | ResidentWeight
"""What a handle names: a tensor, why there is none, or where its bytes are while it is not in the device's memory."""


@dataclass(slots=True)
class OwnStorage:
    """A storage in the device's memory, and the handles whose tensors lie in it."""

    nbytes: int
    handles: set[int]


class OwnTensors:
    """Where the tensors of one session lie.

    Attributes:
        resident_nbytes: Bytes of own tensors in the device's memory.
        spilled_nbytes: Bytes of own tensors in host memory, where they wait to be used.
        loose: Storages (by address) that a program made: in the memory of what programs make on the way.
        epoch: Rises whenever a handle that a binding may name comes to name another tensor, or none.
    """

    def __init__(self, budget: MemoryBudget, arenas: KVArenas, host: HostSpace | None) -> None:
        self._budget = budget
        self._arenas = arenas
        self._host = host
        self._values: dict[int, Value] = {}
        self._storages: dict[int, OwnStorage] = {}
        self.resident_nbytes = 0
        self.spilled_nbytes = 0
        self.loose: set[int] = set()
        self.epoch = 0

    def evict(self, enough: Callable[[], bool]) -> None:
        """Move own storages to host memory, the largest first, until there is enough room or none may go."""
        if self._host is None:
            return
        for key in sorted(self._storages, key=lambda key: self._storages[key].nbytes, reverse=True):
            if enough():
                return
            self._spill(key)

    def settle(self, handles: Iterable[int]) -> None:
        """Move what programs made and what will stay, a Static cache say, to the memory of what stays, if it has room.

        Left where it is, it would keep the memory around it from being given back.
        """
        for handle in handles:
            value = self._values.get(handle)
            if not isinstance(value, torch.Tensor):
                continue
            key = value.untyped_storage()._cdata
            if key not in self.loose:
                continue
            self.loose.discard(key)
            assert self._host is not None
            storage = self._host.settled(value.untyped_storage())
            if storage is not None:
                self._place(self._take_out(key), storage)

    # --- counting ----------------------------------------------------------------------------------------------

    def _count(self, handle: int, tensor: torch.Tensor, *, made: bool) -> None:
        """Name a tensor; `made` says that a program made it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        own = self._storages.get(key)
        if own is not None:
            own.handles.add(handle)
        else:
            nbytes = storage.nbytes()
            self._budget.reserve(nbytes, f"a tensor of {nbytes:,} bytes")
            self.resident_nbytes += nbytes
            self._storages[key] = OwnStorage(nbytes, {handle})
            if made and self._host is not None and not self._arenas.holds(key):
                self.loose.add(key)
        self._values[handle] = tensor

    def _uncount(self, handle: int, tensor: torch.Tensor) -> None:
        key = tensor.untyped_storage()._cdata
        own = self._storages[key]
        own.handles.discard(handle)
        if not own.handles:
            del self._storages[key]
            self.loose.discard(key)
            self.resident_nbytes -= own.nbytes
            self._budget.release(own.nbytes)

    def _uncount_spilled(self, handle: int, spilled: SpilledStorage) -> None:
        assert self._host is not None
        del spilled.layouts[handle]
        if not spilled.layouts:
            self.spilled_nbytes -= spilled.host.numel()
            self._host.drop(spilled.host)

    # --- moving ------------------------------------------------------------------------------------------------

    def _spill(self, key: int) -> None:
        own = self._storages[key]
        assert self._host is not None
        host = self._host.take(self._tensor_in(own).untyped_storage())
        if host is None:
            return
        layouts = self._take_out(key)
        self._values.update(dict.fromkeys(layouts, SpilledStorage(host, layouts, self._arenas.take(key))))
        self.spilled_nbytes += own.nbytes

    def _bring_back(self, spilled: SpilledStorage) -> None:
        assert self._host is not None
        nbytes = spilled.host.numel()
        storage = self._host.give_back(spilled.host, f"a tensor of {nbytes:,} bytes")
        self._place(spilled.layouts, storage)
        if spilled.arena is not None:
            self._arenas.put(storage, spilled.arena)
        self.spilled_nbytes -= nbytes

    def _tensor_in(self, own: OwnStorage) -> torch.Tensor:
        tensor = self._values[next(iter(own.handles))]
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def _take_out(self, key: int) -> dict[int, Layout]:
        """Forget a storage and return how its tensors lie in it, by handle; they must be given other values."""
        own = self._storages.pop(key)
        self.loose.discard(key)
        self.resident_nbytes -= own.nbytes
        self.epoch += 1
        tensors = {handle: self._values[handle] for handle in own.handles}
        return {handle: Layout.of(tensor) for handle, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}

    def _place(self, layouts: dict[int, Layout], storage: torch.UntypedStorage) -> None:
        """Let tensors lie in a storage as they lay in another one, which was taken out."""
        for handle, layout in layouts.items():
            self._values[handle] = layout.on(storage)
        self._storages[storage._cdata] = OwnStorage(storage.nbytes(), set(layouts))
        self.resident_nbytes += storage.nbytes()
