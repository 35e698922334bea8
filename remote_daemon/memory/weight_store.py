"""The resident weights of one worker by content: uploaded once, shared by all sessions, copied when one writes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.host_memory import Allocate, allocate_host
from dynamo_genie.remote_daemon.memory.host_pool import HostPool, TensorLayout
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.upload import Upload
from dynamo_genie.runtime.wire.content import content_digest
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import spec_nbytes

WEIGHT_NBYTES = 1_500
"""What a weight costs beside its bytes."""


@dataclass
class ResidentWeight:
    """A resident tensor with a known content. `users` counts the handles that name it.

    Attributes:
        tensor: None while it is offloaded; `WeightStore.reload` returns it then.
        host: Its bytes then.
    """

    digest: bytes
    spec: TensorSpec
    tensor: torch.Tensor | None
    nbytes: int
    users: int = 0
    host: torch.Tensor | None = None


class _NotKept(Exception):
    """What was described is not there any more, or is damaged."""


class _Resident(Exception):
    """What was read is resident already: this weight, of which one user more is counted."""

    def __init__(self, weight: ResidentWeight) -> None:
        super().__init__()
        self.weight = weight


class Kept(Protocol):
    """Weights by content that outlive the worker."""

    def describe(self, digest: bytes) -> TensorSpec | None:
        """Return how a weight is described, None where there is none."""
        ...

    def read(self, digest: bytes, allocate: Allocate) -> torch.Tensor | None:
        """Return its bytes (host, flat, uint8), proved to be what the digest names, None where there are none."""
        ...

    def keep(self, digest: bytes, spec: TensorSpec, memory: torch.Tensor) -> None:
        """Keep a weight from now on; `memory` is its bytes, which nobody changes."""
        ...


class WeightStore:
    """Maps content digests to resident tensors.

    A weight that no session uses stays, so that the next process with the same model uploads nothing; the
    least recently used ones make room when memory is wanted. What is kept beyond the worker comes back when it is
    asked for.
    """

    def __init__(
        self,
        buffers: BufferStore,
        budget: MemoryBudget,
        host: HostPool | None = None,
        host_budget: MemoryBudget | None = None,
        *,
        kept: Kept | None = None,
        allocate: Allocate = allocate_host,
    ) -> None:
        """Hold nothing yet; weights whose users are idle may be offloaded to `host`.

        Args:
            host_budget: Where the table counts, of whatever memory its tensors are; `budget` by default.
            kept: What is kept beyond the worker; None for nothing.
            allocate: Returns host memory for what is read from there.
        """
        self._kept = kept
        self._allocate = allocate
        self._host_budget = host_budget or budget
        self._buffers = buffers
        self._budget = budget
        self._by_digest: OrderedDict[bytes, ResidentWeight] = OrderedDict()
        self._storages: set[int] = set()
        self._lock = threading.Lock()  # the bulk thread makes room for uploads
        self._host = host
        self.nbytes = 0

    def owns(self, storage_key: int) -> bool:
        """Whether a storage (by its address) belongs to a resident weight."""
        return storage_key in self._storages

    @property
    def unused_nbytes(self) -> int:
        """Bytes that `free_unused` could free."""
        with self._lock:
            return sum(weight.nbytes for weight in self._by_digest.values() if weight.users == 0)

    def store(self, digest: bytes, spec: TensorSpec, upload: Upload) -> None:
        """Keep a finished upload under its content digest.

        Raises:
            ProtocolError: The bytes that arrived are not those that the digest names.
            QuotaExceeded: The memory limit is reached even without the unused weights.
        """
        if content_digest(spec, bytes(upload.chunk_digests)) != digest:
            raise ProtocolError("an uploaded weight does not match its digest; it was changed while it was sent")
        if digest in self._by_digest:
            return
        with self._room(upload.nbytes):
            self._add(digest, spec, upload.memory)
        if self._kept is not None:
            self._kept.keep(digest, spec, upload.memory)

    @contextmanager
    def _room(self, nbytes: int) -> Iterator[None]:
        """Reserve room for a weight of so many bytes, and give it back where there will be none."""
        self._budget.reserve(nbytes, "a weight")
        try:
            self._host_budget.reserve_overhead(WEIGHT_NBYTES, "a weight")
        except QuotaExceeded:
            self._budget.release(nbytes)
            raise
        try:
            yield
        except BaseException:
            self._budget.release(nbytes)
            self._host_budget.release_overhead(WEIGHT_NBYTES)
            raise

    def _add(self, digest: bytes, spec: TensorSpec, memory: torch.Tensor, users: int = 0) -> ResidentWeight:
        nbytes = memory.numel()
        tensor = self._buffers.adopt(spec, memory)
        with self._lock:
            weight = self._by_digest[digest] = ResidentWeight(digest, spec, tensor, nbytes, users)
            self._storages.add(tensor.untyped_storage()._cdata)
            self.nbytes += nbytes
        return weight

    def load(self, spec: TensorSpec, read: Callable[[Allocate], tuple[bytes, torch.Tensor]]) -> ResidentWeight:
        """Make resident what is read, and count one user; `read` returns its digest and its bytes (host, flat, uint8).

        Raises:
            QuotaExceeded: The memory limit is reached even without the unused weights.
        """
        nbytes = spec_nbytes(spec)
        try:
            with self._room(nbytes), self._passing(nbytes):
                digest, memory = read(self._allocate)
                known = self._hold(digest)
                if known is not None:
                    raise _Resident(known)
                return self._add(digest, spec, memory, users=1)
        except _Resident as found:
            return found.weight

    def has(self, digest: bytes) -> bool:
        """Whether there is a weight with this content; it is made resident where it is kept beyond the worker."""
        return digest in self._by_digest or self._bring_back(digest)

    def hold(self, digest: bytes) -> ResidentWeight | None:
        """Return the weight with this content and count one more user, or None."""
        return self._hold(digest) or (self._hold(digest) if self._bring_back(digest) else None)

    def _bring_back(self, digest: bytes) -> bool:
        """Make a weight resident that is kept beyond the worker; say whether it is."""
        spec = self._kept.describe(digest) if self._kept is not None else None
        if spec is None or self._kept is None:
            return False
        nbytes = spec_nbytes(spec)
        try:
            with self._room(nbytes), self._passing(nbytes):
                memory = self._kept.read(digest, self._allocate)
                if memory is None:
                    raise _NotKept
                self._add(digest, spec, memory)
        except (QuotaExceeded, _NotKept):  # whoever wants it may send it, and hears what is wrong
            return False
        return True

    @contextmanager
    def _passing(self, nbytes: int) -> Iterator[None]:
        """Count host memory that bytes pass on their way to a device's."""
        if self._host_budget is self._budget:
            yield
            return
        self._host_budget.reserve(nbytes, "a weight on its way to the device")
        try:
            yield
        finally:
            self._host_budget.release(nbytes)

    def _hold(self, digest: bytes) -> ResidentWeight | None:
        with self._lock:
            weight = self._by_digest.get(digest)
            if weight is not None:
                self._by_digest.move_to_end(digest)
                weight.users += 1
            return weight

    def acquire(self, digest: bytes, spec: TensorSpec) -> ResidentWeight:
        """Return the weight with this content and count one more user.

        Raises:
            ProtocolError: The content is not here, or is described differently.
        """
        weight = self.hold(digest)
        if weight is not None and weight.spec == spec:
            return weight
        if weight is not None:
            self.drop(weight)
        raise ProtocolError("a weight was named that this worker does not hold")

    def drop(self, weight: ResidentWeight) -> None:
        """Drop one user's reference; the content stays until memory is wanted."""
        with self._lock:
            weight.users -= 1
            if weight.users == 0 and weight.host is not None:
                self._free(weight)  # nothing in the device's memory to keep

    def free_unused(self, enough: Callable[[], bool]) -> None:
        """Free unused weights, oldest first, until there is enough room or none is left."""
        with self._lock:
            for weight in [weight for weight in self._by_digest.values() if weight.users == 0]:
                if enough():
                    return
                self._free(weight)

    def offload(self, weight: ResidentWeight) -> bool:
        """Move a weight to host memory if there is room; those who hold its tensor must drop it."""
        with self._lock:
            if weight.tensor is None or self._host is None:
                return False
            storage = weight.tensor.untyped_storage()
            weight.host = self._host.offload(storage)
            if weight.host is None:
                return False
            self._storages.discard(storage._cdata)
            weight.tensor = None
            self.nbytes -= weight.nbytes
            return True

    def reload(self, weight: ResidentWeight) -> torch.Tensor:
        """Return a weight's tensor, moved back to the device's memory first if it was offloaded.

        Raises:
            QuotaExceeded: It does not fit; it stays where it is.
        """
        if weight.tensor is not None:
            return weight.tensor
        assert weight.host is not None and self._host is not None
        storage = self._host.reload(weight.host, "a weight")
        with self._lock:
            weight.tensor = TensorLayout.of_spec(weight.spec).on(storage)
            weight.host = None
            self._storages.add(storage._cdata)
            self.nbytes += weight.nbytes
        return weight.tensor

    def private_copy(self, weight: ResidentWeight, uses: int = 1) -> torch.Tensor:
        """Return what one session may change instead; the caller accounts for it and drops the original.

        A copy where one fits, so that the content stays for the next session; else the tensor itself, if nobody
        else uses it: there are no more users than the caller's `uses`.

        Raises:
            QuotaExceeded: The copy does not fit.
        """
        tensor = self.reload(weight)
        if self._budget.has_room(weight.nbytes):
            return tensor.clone(memory_format=torch.preserve_format)
        with self._lock:
            if weight.users > uses:
                raise QuotaExceeded(
                    f"no room to copy a weight of {weight.nbytes:,} bytes before changing it, and others use it too; "
                    "free tensors or start the daemon with a larger --memory-limit"
                )
            self._free(weight)
        return tensor

    def _free(self, weight: ResidentWeight) -> None:
        del self._by_digest[weight.digest]
        self._host_budget.release_overhead(WEIGHT_NBYTES)
        if weight.tensor is None:
            assert weight.host is not None and self._host is not None
            self._host.free(weight.host)
            return
        self._storages.discard(weight.tensor.untyped_storage()._cdata)
        self._budget.release(weight.nbytes)
        self.nbytes -= weight.nbytes
