"""Keeps weights in files beside the calls: one thread writes what has arrived, one after the other."""

from __future__ import annotations

import queue
import threading

import torch

from dynamo_genie.remote_daemon.weight_files.cache import WeightCache
from dynamo_genie.remote_daemon.weight_files.entry import Allocate
from dynamo_genie.runtime.wire.tensor import TensorSpec

MAX_PENDING_NBYTES = 256 << 20
"""What waits to be written is memory that nobody counts; beyond this the next weight waits."""

PATIENCE_S = 10.0
"""How long one waits; then it is not kept."""


class KeptWeights:
    """A cache that is written in the background."""

    def __init__(self, cache: WeightCache) -> None:
        self._cache = cache
        self._waiting: queue.SimpleQueue[tuple[bytes, TensorSpec, torch.Tensor]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending_nbytes = 0
        threading.Thread(target=self._write, name="genie-weights", daemon=True).start()

    def describe(self, digest: bytes) -> TensorSpec | None:
        """See `WeightCache.describe`."""
        return self._cache.describe(digest)

    def read(self, digest: bytes, allocate: Allocate) -> torch.Tensor | None:
        """See `WeightCache.read`."""
        return self._cache.read(digest, allocate)

    def keep(self, digest: bytes, spec: TensorSpec, memory: torch.Tensor) -> None:
        """Have a weight written; `memory` is its bytes, flat, uint8, on the host.

        Nobody should write to them meanwhile: what is written then is found out when it is read.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._pending_nbytes <= MAX_PENDING_NBYTES, PATIENCE_S):
                return
            self._pending_nbytes += memory.numel()
        self._waiting.put((digest, spec, memory))

    def settle(self, limit_s: float) -> bool:
        """Wait until all is written, or so long; say whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending_nbytes == 0, limit_s)

    def _write(self) -> None:
        while True:
            digest, spec, memory = self._waiting.get()
            try:
                self._cache.write(digest, spec, memory)
            finally:
                nbytes = memory.numel()
                del memory
                with self._changed:
                    self._pending_nbytes -= nbytes
                    self._changed.notify_all()
