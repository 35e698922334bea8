"""The tensors that one session can name, and what they cost. Knows nothing of messages' order or replies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.spilled import HostSpace, Layout, SpilledStorage
from dynamo_genie.remote_daemon.weight_store import ResidentWeight, WeightStore
from dynamo_genie.runtime.wire.messages import ErrorInfo

MAX_HANDLES = 4_000_000


@dataclass(frozen=True)
class Poison:
    """Stands where a tensor would be, had the call that makes it not failed."""

    error: ErrorInfo


class PoisonedInput(Exception):
    """A command names a handle whose making failed; carries that first error."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


Value: TypeAlias = torch.Tensor | Poison | SpilledStorage | ResidentWeight
"""What a handle names: a tensor, why there is none, or where its bytes are while it is not in the device's memory."""


class HandleTable:
    """Handles of one session: plain tensors counted per storage, and weights shared by content.

    Attributes:
        resident_nbytes: Bytes of own tensors in the device's memory.
        spilled_nbytes: Bytes of own tensors in host memory, where they wait to be used.
        windows: Handles whose tensor is a window of an arena: it shares memory with older and newer caches.
        bound: Handles that bindings name.
        epoch: Rises whenever a bound handle comes to name another tensor, or none.
    """

    def __init__(
        self, budget: MemoryBudget, weights: WeightStore, arenas: KVArenas, host: HostSpace | None = None
    ) -> None:
        """Name nothing yet; `host` is where tensors may lie while the session is idle."""
        self._budget = budget
        self._weights = weights
        self._arenas = arenas
        self._host = host
        self._values: dict[int, Value] = {}
        self._shared: dict[int, ResidentWeight] = {}
        self._storages: dict[int, list[int]] = {}
        self.resident_nbytes = 0
        self.spilled_nbytes = 0
        self.windows: set[int] = set()
        self.bound: set[int] = set()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._values)

    def tensor(self, handle: int) -> torch.Tensor:
        """Return the tensor a handle names, bringing it back to the device's memory first if it is not there.

        Raises:
            PoisonedInput: The call that should have made it failed.
            ProtocolError: There is no such handle.
            QuotaExceeded, torch.OutOfMemoryError: It does not fit in the device's memory; it stays where it is.
        """
        value = self._values.get(handle)
        if type(value) is torch.Tensor:
            return value
        if isinstance(value, Poison):
            raise PoisonedInput(value.error)
        if isinstance(value, SpilledStorage):
            self._bring_back(value)
            return self.tensor(handle)
        if isinstance(value, ResidentWeight):
            tensor = self._values[handle] = self._weights.bring_back(value)
            return tensor
        if value is None:
            raise ProtocolError(f"handle {handle} names nothing in this session")
        return value

    def add(self, handle: int, tensor: torch.Tensor) -> None:
        """Name a tensor; its storage counts once, however many handles share it.

        Raises:
            QuotaExceeded: The memory limit is reached; the handle is not made.
        """
        self._require_fresh(handle)
        storage = tensor.untyped_storage()
        key = storage._cdata
        entry = self._storages.get(key)
        if entry is None and self._weights.owns(key):  # a view of a weight would let one session change all
            tensor = tensor.clone(memory_format=torch.preserve_format)
            storage = tensor.untyped_storage()
            key = storage._cdata
        if entry is not None:
            entry[0] += 1
        else:
            nbytes = storage.nbytes()
            self._budget.reserve(nbytes, f"a tensor of {nbytes:,} bytes")
            self.resident_nbytes += nbytes
            self._storages[key] = [1, nbytes]
        self._values[handle] = tensor
        if self._arenas.holds(key):
            self.windows.add(handle)

    def poison(self, handle: int, error: ErrorInfo) -> None:
        """Remember why a handle has no tensor."""
        if handle > 0 and handle not in self._values and len(self._values) < MAX_HANDLES:
            self._values[handle] = Poison(error)

    def adopt(self, handle: int, weight: ResidentWeight) -> None:
        """Name a shared weight that has been acquired for this handle."""
        self._require_fresh(handle)
        self._values[handle] = weight if weight.tensor is None else weight.tensor
        self._shared[handle] = weight

    def writable(self, handle: int) -> torch.Tensor:
        """Return the tensor for writing, replacing a shared weight or a window of an arena by a private copy first."""
        weight = self._shared.get(handle)
        if weight is None:
            return self.separate(handle)
        copy = self._weights.private_copy(weight)
        self.epoch += 1
        del self._values[handle], self._shared[handle]
        self._weights.release(weight)
        self.add(handle, copy)
        return copy

    def separate(self, handle: int) -> torch.Tensor:
        """Return a tensor as eager PyTorch would hold it, taking it out of its arena if it is in one.

        Raises:
            QuotaExceeded: The copy does not fit; the handle stays as it is.
        """
        window = self.tensor(handle)
        if handle not in self.windows:
            return window
        copy = self._arenas.private_copy(window)
        del self._values[handle]
        try:
            self.add(handle, copy)
        except QuotaExceeded:
            self._values[handle] = window
            raise
        self.windows.discard(handle)
        self._release_storage(window)
        if handle in self.bound:
            self.epoch += 1
        return copy

    def spoil(self, handle: int, error: ErrorInfo) -> None:
        """Let a handle whose tensor is not what it should be fail wherever it is used."""
        self.free(handle)
        self.poison(handle, error)

    def free(self, handle: int) -> None:
        """Forget a handle; unknown ones are ignored, so that freeing twice is harmless."""
        if handle in self.bound:
            self.bound.discard(handle)
            self.epoch += 1
        value = self._values.pop(handle, None)
        weight = self._shared.pop(handle, None)
        if weight is not None:
            self._weights.release(weight)
        elif isinstance(value, torch.Tensor):
            self.windows.discard(handle)
            self._release_storage(value)
        elif isinstance(value, SpilledStorage):
            self.windows.discard(handle)
            self._release_spilled(value, handle)

    def _release_storage(self, tensor: torch.Tensor) -> None:
        key = tensor.untyped_storage()._cdata
        entry = self._storages[key]
        entry[0] -= 1
        if entry[0] == 0:
            del self._storages[key]
            self.resident_nbytes -= entry[1]
            self._budget.release(entry[1])

    # --- while the session is idle -----------------------------------------------------------------------------

    def evict(self, enough: Callable[[], bool]) -> None:
        """Move own storages to host memory, the largest first, until there is enough room or none may go."""
        if self._host is None:
            return
        lying: defaultdict[int, dict[int, torch.Tensor]] = defaultdict(dict)
        for handle, value in self._values.items():
            if isinstance(value, torch.Tensor) and handle not in self._shared:
                lying[value.untyped_storage()._cdata][handle] = value
        for key in sorted(lying, key=lambda key: self._storages[key][1], reverse=True):
            if enough():
                return
            self._spill(key, lying.pop(key))

    def weights(self) -> list[ResidentWeight]:
        """Return the weights that handles name, one item a handle."""
        return list(self._shared.values())

    def unload(self, weight: ResidentWeight) -> None:
        """Let go of the tensor of a weight that was moved to host memory."""
        for handle in [handle for handle, shared in self._shared.items() if shared is weight]:
            self._values[handle] = weight
            self.epoch += 1

    def _spill(self, key: int, tensors: dict[int, torch.Tensor]) -> None:
        assert self._host is not None
        host = self._host.take(next(iter(tensors.values())).untyped_storage())
        if host is None:
            return
        layouts = {handle: Layout.of(tensor) for handle, tensor in tensors.items()}
        spilled = SpilledStorage(host, layouts, self._arenas.take(key))
        self._values.update(dict.fromkeys(tensors, spilled))
        nbytes = self._storages.pop(key)[1]
        self.resident_nbytes -= nbytes
        self.spilled_nbytes += nbytes
        self._budget.release(nbytes)
        self.epoch += 1

    def _bring_back(self, spilled: SpilledStorage) -> None:
        assert self._host is not None
        nbytes = spilled.host.numel()
        self._budget.reserve(nbytes, f"a tensor of {nbytes:,} bytes that was moved to host memory")
        try:
            storage = self._host.give_back(spilled.host)
        except BaseException:
            self._budget.release(nbytes)
            raise
        for handle, layout in spilled.layouts.items():
            self._values[handle] = layout.on(storage)
        self._storages[storage._cdata] = [len(spilled.layouts), nbytes]
        if spilled.arena is not None:
            self._arenas.put(storage, spilled.arena)
        self.resident_nbytes += nbytes
        self.spilled_nbytes -= nbytes

    def _release_spilled(self, spilled: SpilledStorage, handle: int) -> None:
        assert self._host is not None
        del spilled.layouts[handle]
        if not spilled.layouts:
            self.spilled_nbytes -= spilled.host.numel()
            self._host.drop(spilled.host)

    def clear(self) -> None:
        """Forget everything."""
        for handle in list(self._values):
            self.free(handle)

    def _require_fresh(self, handle: int) -> None:
        if handle <= 0 or handle in self._values:
            raise ProtocolError(f"handle {handle} is in use already")
        if len(self._values) >= MAX_HANDLES:
            raise ProtocolError(f"more than {MAX_HANDLES:,} handles")
