"""The handle table of one session: the tensors that it can name. Knows nothing of messages' order or replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch

from dynamo_genie.errors import GenieError, ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.host_pool import HostPool
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.layout_overlap import layouts_overlap
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.session_share import SessionShare
from dynamo_genie.remote_daemon.memory.snapshot import SharedSnapshot
from dynamo_genie.remote_daemon.memory.weight_alias import WeightAliases
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight, WeightStore
from dynamo_genie.remote_daemon.worker.session_memory import OffloadedStorage, Poison, SessionMemory
from dynamo_genie.runtime.wire.record import ErrorInfo, brief

MAX_HANDLES = 4_000_000

BLOCK = 256
HANDLE_NBYTES = 1_200
"""Handles are paid for by the block: what a tensor of one byte costs, and the tables that it stands in."""

MAX_WHOLE_ERRORS = 256
"""Handles without a tensor that keep the whole reason for it, with its traceback."""


class PoisonedInput(Exception):
    """A command names a handle whose making failed; carries that first error."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class HandleTable(SessionMemory):
    """Handles of one session: tensors of its own, and weights shared by content.

    Attributes:
        arena_views: Handles whose tensor is a window of an arena: it shares memory with older and newer caches.
        aliases: Tensors that lie in the memory of shared weights, with their views.
        bound: Handles that bindings name.
        lent: Snapshots that lie in memory of this table, by the handles that hold it for them: negative numbers.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        weights: WeightStore,
        arenas: KVArenas,
        host: HostPool | None = None,
        host_budget: MemoryBudget | None = None,
        share: SessionShare | None = None,
    ) -> None:
        """Name nothing yet; while the session is idle, tensors may be offloaded to `host`.

        Args:
            host_budget: Where handles count, of whatever memory their tensors are; `budget` by default.
            share: Of `budget`, what this session may have: all by default.
        """
        super().__init__(budget, arenas, host, share or SessionShare.of(budget.limit, 1.0))
        self._host_budget = host_budget or budget
        self._paid = 0
        self._poisoned = 0
        self._weights = weights
        self._shared: dict[int, ResidentWeight] = {}
        self._uses: Counter[bytes] = Counter()
        self.aliases = WeightAliases()
        self.arena_views: set[int] = set()
        self.bound: set[int] = set()
        self.lent: dict[int, SharedSnapshot] = {}
        self._loans = 0

    def __len__(self) -> int:
        return len(self._values) - len(self.lent)

    def tensor(self, handle: int) -> torch.Tensor:
        """Return the tensor a handle names, moved back to the device's memory first if it was offloaded.

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
        if isinstance(value, OffloadedStorage):
            self._reload(value)
            return self.tensor(handle)
        if isinstance(value, ResidentWeight):
            return self._reload_weight(handle, value)
        if value is None:
            raise ProtocolError(f"handle {handle} names nothing in this session")
        return value

    def _reload_weight(self, handle: int, weight: ResidentWeight) -> torch.Tensor:
        tensor, alias = self._weights.reload(weight), self.aliases.of(handle)
        self._values.update({handle: tensor} if alias is None else self.aliases.place(alias, tensor))
        return self.tensor(handle)

    def add(self, handle: int, tensor: torch.Tensor, *, made: bool = False) -> None:
        """Name a tensor; its storage counts once, however many handles share it. `made`: by a program.

        Raises:
            QuotaExceeded: The memory limit is reached; the handle is not made.
        """
        self._require_fresh(handle)
        if self.aliases and (weight := self.aliases.join(handle, tensor)) is not None:
            self._weights.hold(weight.digest)
            self._uses[weight.digest] += 1
            self._values[handle], self._shared[handle] = tensor, weight
            return
        if self._weights.owns(tensor.untyped_storage()._cdata):  # a view of a weight would let one session change all
            tensor = tensor.clone(memory_format=torch.preserve_format)
        self._hold(handle, tensor, made=made)
        if self._arenas.holds(tensor.untyped_storage()._cdata):
            self.arena_views.add(handle)

    def poison(self, handle: int, error: ErrorInfo) -> None:
        """Remember why a handle has no tensor."""
        if handle <= 0 or handle in self._values or not self._can_name_one_more():
            return
        self._poisoned += 1
        self._values[handle] = Poison(error if self._poisoned <= MAX_WHOLE_ERRORS else brief(error))

    def adopt(self, handle: int, weight: ResidentWeight, *, viewed: bool = False) -> None:
        """Name a shared weight that has been acquired for this handle; it counts whole in this session's share.

        Where it may be `viewed`, what a program returns of its memory stays there, and is written with it.

        Raises:
            QuotaExceeded: It is more than that.
        """
        self._require_fresh(handle)
        if not self._uses[weight.digest]:
            self._share.require(weight.nbytes, "a weight")
            self._share.resident += weight.nbytes
        self._uses[weight.digest] += 1
        self._values[handle] = weight if weight.tensor is None or viewed else weight.tensor
        self._shared[handle] = weight
        if viewed:
            self.aliases.begin(handle, weight)

    def writable(self, handle: int) -> torch.Tensor:
        """Return the tensor for writing, replacing a shared weight or a window of an arena by a private copy first."""
        weight = self._shared.get(handle)
        if weight is None:
            return self.detach_from_arena(handle)
        if self.aliases.of(handle) is not None:
            return self._separate(handle)
        copy = self._weights.private_copy(weight)
        self.epoch += 1
        del self._values[handle], self._shared[handle]
        self._drop_weight(weight)
        self.add(handle, copy)
        return copy

    def _separate(self, handle: int) -> torch.Tensor:
        """Move what lies in the memory of a weight, with this handle's tensor, to a private copy of it."""
        alias = self.aliases.of(handle)
        assert alias is not None
        layouts = dict(alias.layouts)
        storage = self._weights.private_copy(alias.weight, len(layouts)).untyped_storage()
        self.epoch += 1
        for each in layouts:
            self.aliases.leave(each)
            del self._values[each], self._shared[each]
            self._drop_weight(alias.weight)
        for each, layout in layouts.items():
            self._hold(each, layout.on(storage), made=False)
        return self.tensor(handle)

    def detach_from_arena(self, handle: int) -> torch.Tensor:
        """Return a tensor as eager PyTorch would hold it, taking it out of its arena if it is in one.

        Raises:
            QuotaExceeded: The copy does not fit; the handle stays as it is.
        """
        window = self.tensor(handle)
        if handle not in self.arena_views:
            return window
        copy = self._arenas.private_copy(window)
        del self._values[handle]
        try:
            self.add(handle, copy)
        except QuotaExceeded:
            self._values[handle] = window
            raise
        self.arena_views.discard(handle)
        self._drop(handle, window)
        if handle in self.bound:
            self.epoch += 1
        return copy

    # --- snapshots -------------------------------------------------------------------------------------------

    def lend(self, handle: int, snapshot: SharedSnapshot) -> None:
        """Hold what a handle names, whoever frees it, until a snapshot that lies there ends or is separated."""
        self._loans += 1
        loan, tensor, weight = -self._loans, self.tensor(handle), self._shared.get(handle)
        if len(self._values) >= self._paid:
            self._pay()
        if weight is None:
            self._hold(loan, tensor, made=False)
        else:
            self._weights.hold(weight.digest)
            self._values[loan], self._shared[loan] = tensor, weight
            self._uses[weight.digest] += 1
        self.lent[loan] = snapshot

    def before_write(self, handles: Iterable[int]) -> None:
        """Separate the snapshots that lie in the memory of these handles, which is about to change."""
        values = (self._values.get(handle) for handle in handles)
        written = {value.untyped_storage()._cdata for value in values if isinstance(value, torch.Tensor)}
        for loan, snapshot in list(self.lent.items()):
            if self.tensor(loan).untyped_storage()._cdata in written:
                snapshot.separate(self._budget)
                self._take_back(loan)

    def take_back_ended(self) -> None:
        """Hold no longer what was held for snapshots that have ended."""
        for loan in [loan for loan, snapshot in self.lent.items() if snapshot.ended]:
            self._take_back(loan)

    def _take_back(self, loan: int) -> None:
        del self.lent[loan]
        self.drop(loan)

    # --- failures --------------------------------------------------------------------------------------------

    def spoil(self, handle: int, error: ErrorInfo) -> None:
        """Let a handle whose tensor is not what it should be fail wherever it is used."""
        self.drop(handle)
        self.poison(handle, error)

    def spoil_memory(self, handle: int, error: ErrorInfo) -> None:
        """Let fail what a handle names, and all other handles whose elements lie in the same memory.

        What shares a storage with a window of an arena, or with a weight, does not: a write goes to a copy of those.
        """
        value = self._values.get(handle)
        if isinstance(value, Poison) or value is None:
            return
        if self.aliases.of(handle) is not None:
            for other in self.aliases.overlapping(handle):
                self.spoil(other, error)
            return
        if isinstance(value, ResidentWeight) or handle in self._shared or handle in self.arena_views:
            self.spoil(handle, error)
            return
        layouts = self._neighbours(value)
        written = layouts[handle]
        for other, layout in layouts.items():
            if other > 0 and layouts_overlap(written, layout):
                self.spoil(other, error)

    def drop(self, handle: int) -> None:
        """Drop what a handle names; unknown ones are ignored, so that dropping twice is harmless."""
        if handle in self.bound:
            self.bound.discard(handle)
            self.epoch += 1
        value = self._values.pop(handle, None)
        weight = self._shared.pop(handle, None)
        if weight is not None:
            self.aliases.leave(handle)
            self._drop_weight(weight)
        elif isinstance(value, torch.Tensor):
            self.arena_views.discard(handle)
            self._drop(handle, value)
        elif isinstance(value, OffloadedStorage):
            self.arena_views.discard(handle)
            self._drop_offloaded(handle, value)
        elif isinstance(value, Poison):
            self._poisoned -= 1

    def _drop_weight(self, weight: ResidentWeight) -> None:
        self._uses[weight.digest] -= 1
        if not self._uses[weight.digest]:
            del self._uses[weight.digest]
            self._share.resident -= weight.nbytes
        self._weights.drop(weight)

    def weights(self) -> list[ResidentWeight]:
        """Return the weights that handles name, one item a handle."""
        return list(self._shared.values())

    def drop_tensor(self, weight: ResidentWeight) -> None:
        """Drop the tensor of a weight that was offloaded."""
        for handle in [handle for handle, shared in self._shared.items() if shared is weight]:
            if (alias := self.aliases.of(handle)) is not None:
                self.aliases.unplace(alias)
            self._values[handle] = weight
            self.epoch += 1

    def clear(self) -> None:
        """Drop everything."""
        self.lent.clear()
        for handle in list(self._values):
            self.drop(handle)
        self.pay_back()

    def _require_fresh(self, handle: int) -> None:
        if handle <= 0 or handle in self._values:
            raise ProtocolError(f"handle {handle} is in use already")
        if len(self._values) >= self._paid:
            self._pay()

    def _can_name_one_more(self) -> bool:
        try:
            if len(self._values) >= self._paid:
                self._pay()
        except GenieError:
            return False
        return True

    def _pay(self) -> None:
        """Pay for another block of handles.

        Raises:
            ProtocolError, QuotaExceeded: There are too many.
        """
        if self._paid >= MAX_HANDLES:
            raise ProtocolError(f"more than {MAX_HANDLES:,} handles")
        self._host_budget.reserve_overhead(BLOCK * HANDLE_NBYTES, f"naming more than {self._paid:,} tensors")
        self._paid += BLOCK

    def pay_back(self) -> None:
        """Give back what was paid for handles that are not named any more; a block stays, so that this is rare."""
        keep = BLOCK if self._values else 0
        blocks = (self._paid - len(self._values) - keep) // BLOCK
        if blocks > 0:
            self._paid -= blocks * BLOCK
            self._host_budget.release_overhead(blocks * BLOCK * HANDLE_NBYTES)
