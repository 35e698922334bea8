"""Exact write tracking of tensors by the kernel's record of written pages."""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from dynamo_genie.runtime.writes.mapped_file import MappedFile
from dynamo_genie.runtime.writes.memory_map import MemoryMap
from dynamo_genie.runtime.writes.page_edges import PageEdges
from dynamo_genie.runtime.writes.page_scan import PAGE_NBYTES, PageScanner
from dynamo_genie.runtime.writes.sampled_tracking import SampledFingerprint
from dynamo_genie.runtime.writes.watch import ByteRange, Watch

logger = logging.getLogger(__name__)

_GAP_NBYTES = 64 * PAGE_NBYTES  # scanning so many unwatched pages costs less than another system call
FileName = tuple[str, int]
"""The path of a mapped file and its inode, which tells it from another one that took its place."""


@dataclass(slots=True)
class _Region:
    """Neighbouring watches, looked at by one scan."""

    start: int
    end: int
    argument: bytearray
    watches: list[Watch]
    edges: dict[Watch, PageEdges]
    starts: list[int] = field(init=False)
    reach: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = [watch.address for watch in self.watches]
        self.reach = list(accumulate((watch.address + watch.nbytes for watch in self.watches), max))

    def mark(self, low: int, high: int) -> None:
        """Mark the watches that overlap a written range of addresses."""
        index = bisect_left(self.starts, high) - 1
        while index >= 0 and self.reach[index] > low:  # reach: the furthest end of all watches up to this one
            watch = self.watches[index]
            first, last = low - watch.address, high - watch.address
            if watch.nbytes > first and self.edges[watch].written(first, last):
                watch.mark(first, last)
            index -= 1

    def mark_all(self) -> None:
        for watch in self.watches:
            watch.mark_all()


class KernelWriteTracker:
    """Asks the kernel which pages were written: one element through `.data` or a numpy alias is seen.

    Exact for private memory, which is what tensors use. Two kinds need more than the record of this process's writes:

    * a private mapping of a file (safetensors) also shows what others write to the file, as long as a page was not
      written here: the file is looked at as well, and its watches are `exact` as long as a write would be noticed;
    * shared memory is written by other processes: its watches are sampled as well, and are not `exact`.

    Memory that the kernel will not track (huge pages of hugetlbfs, memory tracked by somebody else) is sampled only,
    and its watches are not `exact`. Writes by devices into pinned memory leave no record. In a forked child, where the
    record is still the parent's, everything counts as written.
    """

    def __init__(self) -> None:
        self._pages = PageScanner()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._sampled = SampledFingerprint()
        self._watches: dict[Watch, PageEdges] = {}
        self._regions: list[_Region] = []
        self._files: dict[FileName, MappedFile] = {}
        self._file_watches: dict[FileName, list[Watch]] = {}
        self._layout_changed = False

    def watch(self, tensors: Sequence[torch.Tensor], inbox: set[Watch]) -> list[Watch]:
        with self._lock:
            watches = [Watch(tensor, inbox) for tensor in tensors]
            self._watches.update((watch, PageEdges(watch)) for watch in watches)
            if not self._is_child():
                self._lay_out()
                for watch in watches:
                    self._watches[watch].note()
                    watch.take()  # what was written before is no news to somebody who watches from now on
            return watches

    def unwatch(self, watches: Sequence[Watch]) -> None:
        with self._lock:
            for watch in watches:
                self._watches.pop(watch, None)
            self._sampled.unwatch(watches)
            self._layout_changed = True

    def scan(self) -> None:
        with self._lock:
            if self._is_child():
                for watch in self._watches:
                    watch.mark_all()
                return
            if self._layout_changed or not self._scan_regions():
                self._lay_out()
            if self._files:
                self._check_files()
            self._sampled.scan()

    def close(self) -> None:
        with self._lock:
            self._pages.close()
            self._sampled.close()
            self._watches.clear()
            self._regions.clear()
            self._keep_files(())

    def _is_child(self) -> bool:
        return os.getpid() != self._pid

    def _scan_regions(self) -> bool:
        """Mark what was written; False when some memory is no longer tracked."""
        tracked = True
        for region in self._regions:
            try:
                written = self._pages.scan(region.argument, region.end)
            except OSError as error:
                logger.debug("memory at %#x-%#x changed hands: %s", region.start, region.end, error)
                region.mark_all()
                tracked = False
            else:
                for low, high in written:
                    region.mark(low, high)
        return tracked

    def _lay_out(self) -> None:
        """Register what is watched, in as few ranges as possible, and start the record of what is new.

        Pages registered before keep their record: what was written since the last scan is reported here.
        """
        self._layout_changed = False
        self._regions = list(self._registered(MemoryMap.of_this_process()))
        self._scan_regions()

    def _registered(self, memory: MemoryMap) -> Iterator[_Region]:
        self._file_watches = {}
        trackable = [watch for watch in self._watches if watch.nbytes and self._classify(watch, memory)]
        self._keep_files(self._file_watches)
        self._note_exactness()
        for watches in _neighbours(trackable, memory):
            low = min(_pages_of(watch)[0] for watch in watches)
            high = max(_pages_of(watch)[1] for watch in watches)
            yield from self._register(low, high, watches)

    def _register(self, low: int, high: int, watches: list[Watch]) -> Iterator[_Region]:
        """Register a range of neighbours; where the kernel refuses, each watch alone."""
        try:
            self._pages.register(low, high)
        except OSError as error:
            if len(watches) == 1:
                logger.info("%d bytes at %#x can only be sampled: %s", watches[0].nbytes, low, error)
                self._give_up(watches[0])
                return
        else:
            yield _Region(low, high, self._pages.argument(low, high), watches, self._watches)
            return
        for watch in watches:
            yield from self._register(*_pages_of(watch), [watch])

    def _classify(self, watch: Watch, memory: MemoryMap) -> bool:
        """Decide what a watch needs besides the record of pages; False when its memory is not mapped."""
        mappings = memory.covering(*_pages_of(watch))
        watch.foreign = any(mapping.shared for mapping in mappings)
        watch.exact = bool(mappings) and not watch.foreign
        if watch.exact:
            for mapping in mappings:
                if mapping.path:
                    self._file_watches.setdefault((mapping.path, mapping.inode), []).append(watch)
        else:
            self._sampled.adopt([watch])
        return bool(mappings)

    def _give_up(self, watch: Watch) -> None:
        watch.exact = False
        for watches in self._file_watches.values():
            if watch in watches:
                watches.remove(watch)
        watch.mark_all()
        self._sampled.adopt([watch])

    def _keep_files(self, names: Collection[FileName]) -> None:
        """Follow these files and let go of all others."""
        for name in self._files.keys() - set(names):
            self._files.pop(name).close()
        for name in names:
            if name not in self._files:
                self._files[name] = MappedFile(*name)

    def _check_files(self) -> None:
        """Mark what lies in a file that changed, or of which it can be told no longer, or again, whether it does."""
        for name, file in self._files.items():
            if file.last != file.look():
                for watch in self._file_watches[name]:
                    watch.mark_all()
        self._note_exactness()

    def _note_exactness(self) -> None:
        for quiet in (True, False):  # a watch of several files is exact if all of them are quiet
            for name, file in self._files.items():
                if file.last.quiet is quiet:
                    for watch in self._file_watches[name]:
                        watch.exact, watch.foreign = quiet, not quiet


def _neighbours(watches: list[Watch], memory: MemoryMap) -> Iterator[list[Watch]]:
    """Group watches that lie close together, with mapped memory between them."""
    group: list[Watch] = []
    end = 0
    for watch in sorted(watches, key=lambda watch: watch.address):
        low, high = _pages_of(watch)
        if group and low > end and (low - end > _GAP_NBYTES or not memory.covering(end, low)):
            yield group
            group = []
        end = max(end, high) if group else high
        group.append(watch)
    if group:
        yield group


def _pages_of(watch: Watch) -> ByteRange:
    low = watch.address - watch.address % PAGE_NBYTES
    return low, -(-(watch.address + watch.nbytes) // PAGE_NBYTES) * PAGE_NBYTES
