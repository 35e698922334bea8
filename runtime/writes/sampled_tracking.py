"""Telling whether tensors were written by comparing a sample of their bytes, where the kernel keeps no record."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import torch
import xxhash

from dynamo_genie.runtime.writes.memory_map import MemoryMap
from dynamo_genie.runtime.writes.watch import Watch

SAMPLE_WORDS = 256
"""Words of 8 bytes compared per tensor."""

WHOLE_NBYTES = 4096
"""Tensors up to this size are compared whole."""


class SampledFingerprint:
    """Compares a sample of each tensor's bytes with the last look: works everywhere, can miss sparse writes.

    Tensors up to 4 KiB are compared whole. Of a larger one, 256 words of 8 bytes spread evenly over it, and its last
    bytes, are compared. Anything that touches most elements is seen (an optimizer step, `mul_`, loading a state dict,
    merging an adapter, a change of dtype). A write to few elements, say one row or one element, is missed when no
    sampled word lies in it. So its watches are not `exact`: who must know compares all their bytes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prints: dict[Watch, bytes] = {}

    def watch(self, tensors: Sequence[torch.Tensor], inbox: set[Watch]) -> list[Watch]:
        watches = [Watch(tensor, inbox) for tensor in tensors]
        memory = MemoryMap.of_this_process()
        for watch in watches:
            mappings = memory.covering(watch.address, watch.address + watch.nbytes)
            watch.foreign = not mappings or any(mapping.shared or mapping.path for mapping in mappings)
        self.adopt(watches)
        return watches

    def adopt(self, watches: Sequence[Watch]) -> None:
        """Take over watches that another tracker cannot follow; known ones keep their record."""
        with self._lock:
            for watch in watches:
                if watch not in self._prints:
                    self._prints[watch] = fingerprint(watch)

    def unwatch(self, watches: Sequence[Watch]) -> None:
        with self._lock:
            for watch in watches:
                self._prints.pop(watch, None)

    def scan(self) -> None:
        with self._lock:
            for watch, before in self._prints.items():
                now = fingerprint(watch)
                if now != before:
                    self._prints[watch] = now
                    watch.mark_all()

    def close(self) -> None:
        with self._lock:
            self._prints.clear()


def fingerprint(watch: Watch) -> bytes:
    """Return a digest of a sample of the watched memory; empty when the tensor no longer uses it."""
    storage = watch.storage()
    if storage is None:
        return b""
    view = _storage_view(storage, watch)
    if watch.nbytes <= WHOLE_NBYTES:
        return xxhash.xxh3_64_digest(view)
    words = watch.nbytes // 8
    sample = view[: words * 8].cast("Q")[:: max(1, words // SAMPLE_WORDS)].tobytes()
    return xxhash.xxh3_64_digest(sample + view[-64:].tobytes())


def _storage_view(storage: torch.UntypedStorage, watch: Watch) -> memoryview:
    if watch.nbytes == 0:
        return memoryview(b"")
    return memoryview((ctypes.c_char * watch.nbytes).from_address(watch.address)).cast("B")
