"""Which local tensors have a counterpart on the daemon, and what the daemon last got of each."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import torch

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.runtime.weights.chunk_diff import Recheck
from dynamo_genie.runtime.weights.digests import TensorDigest, TensorHasher
from dynamo_genie.runtime.weights.progress import LONG_NBYTES, weights_bar
from dynamo_genie.runtime.weights.tensor_identity import Layout, layout_of
from dynamo_genie.runtime.weights.weight_channel import WeightChannel
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.runtime.writes.watch import Watch, WriteTracker
from dynamo_genie.tensors import dense_for_wire, require_cpu, spec_of, tensor_bytes


class Owner(weakref.ref[torch.Tensor]):
    """A local tensor that shows some resident memory; it dies unnoticed and is swept later.

    `version` is its version when its content was last compared. Equality is identity: a reference would otherwise
    compare its tensors, element by element.
    """

    __slots__ = ("number", "resident", "version")
    __eq__ = object.__eq__
    __hash__ = object.__hash__
    number: int
    resident: Resident | None
    version: int

    def __new__(cls, tensor: torch.Tensor, on_death: Callable[[weakref.ref[torch.Tensor]], None]) -> Owner:
        owner = super().__new__(cls, tensor, on_death)
        owner.number, owner.resident, owner.version = id(tensor), None, version_of(tensor)
        return owner


@dataclass(slots=True, eq=False)
class Resident:
    """One piece of local memory and its counterpart. `content` is what the daemon has; None: not known."""

    handle: int
    layout: Layout
    spec: TensorSpec
    watch: Watch
    content: TensorDigest | None
    owners: set[Owner]

    def tensor(self) -> torch.Tensor | None:
        """Return a local tensor that shows this memory; None when there is none any more."""
        for owner in self.owners:
            tensor = owner()
            if tensor is not None and layout_of(tensor) == self.layout:
                return tensor
        return None

    def note_versions(self) -> None:
        """Remember that the contents seen now are the ones compared."""
        for owner in self.owners:
            if (tensor := owner()) is not None:
                owner.version = version_of(tensor)


def version_of(tensor: torch.Tensor) -> int:
    """Return a tensor's version; inference tensors have none."""
    return 0 if tensor.is_inference() else tensor._version


class ResidentStore:
    """The residents of one session. Owns their handles and their watches, and no tensor. Not thread-safe."""

    def __init__(self, channel: WeightChannel, tracker: WriteTracker, *, progress: bool = False) -> None:
        self.inbox: set[Watch] = set()
        self.epoch = 0  # rises whenever the owners of a known resident change
        self._channel = channel
        self._tracker = tracker
        self._progress = progress
        self._hasher = TensorHasher()
        self._owners: dict[int, Owner] = {}
        self._residents: dict[Layout, Resident] = {}
        self._dead: deque[weakref.ref[torch.Tensor]] = deque()  # filled by finalizers, in any thread at any point
        self._unwatched: list[Watch] = []
        self._freed: list[int] = []
        channel.when_gone(self.restore)

    def sweep(self) -> None:
        """Let go of the residents whose tensors died."""
        while self._dead:
            owner = self._dead.popleft()
            assert isinstance(owner, Owner)
            if self._owners.get(owner.number) is owner:
                del self._owners[owner.number]
            self._detach(owner)
        if self._channel.take_doubt():
            self.forget(list(self._residents.values()))

    def forget(self, residents: Iterable[Resident]) -> None:
        """Let go of residents whose counterpart is not what it should be; the next use makes new ones."""
        for resident in residents:
            for owner in list(resident.owners):
                self._detach(owner)

    def flush(self) -> None:
        """Tell the daemon which handles are free. Last, so that a content in use again was adopted again before."""
        freed, self._freed = self._freed, []
        unwatched, self._unwatched = self._unwatched, []
        if unwatched:
            self._tracker.unwatch(unwatched)
            self.inbox.difference_update(unwatched)
        for handle in freed:
            self._channel.free(handle)

    def scan(self) -> None:
        """Learn from the tracker what was written."""
        self._tracker.scan()

    def owner_of(self, tensor: torch.Tensor) -> Owner | None:
        """Return what is known of a tensor."""
        return self._owners.get(id(tensor))

    def acquire(self, tensors: Sequence[torch.Tensor], *, ask: bool = True) -> list[Resident]:
        """Return the resident of each tensor, making those that are missing.

        With `ask`, a content that the daemon has is adopted; without, all that is missing here is sent.
        """
        layouts = list(map(layout_of, tensors))
        fresh = {
            layout: tensor for layout, tensor in zip(layouts, tensors, strict=True) if layout not in self._residents
        }
        self._create(fresh, ask)
        found = [self._residents[layout] for layout in layouts]
        for tensor, resident in zip(tensors, found, strict=True):
            self._attach(tensor, resident)
        return found

    def assume(self, tensors: Sequence[torch.Tensor], handles: Sequence[int]) -> None:
        """Take it that handles name what these tensors hold; nothing is sent."""
        watches = self._tracker.watch(list(tensors), self.inbox)  # before hashing: later writes are noticed
        for tensor, handle, watch, content in zip(
            tensors, handles, watches, self._hasher.digest_tensors(tensors), strict=True
        ):
            layout, spec = layout_of(tensor), spec_of(dense_for_wire(tensor))
            self._residents[layout] = Resident(handle, layout, spec, watch, content, set())
            self._attach(tensor, self._residents[layout])

    def refresh(self, residents: Iterable[Resident], *, everything: frozenset[Resident] = frozenset()) -> bool:
        """Send the chunks that were written and did change; of the residents in `everything`, look at all chunks."""
        chosen = list(residents)
        try:
            rechecks = {r: found for r in chosen if (found := _recheck(r, r in everything)) is not None}
            return self._send_changes(rechecks)
        except BaseException:
            for resident in chosen:  # it is not known what arrived: all of it goes again
                resident.content = None
                resident.watch.mark_all()
            raise

    def note_in_sync(self, residents: Sequence[Resident]) -> None:
        """Take the local copies as what the daemon has, and watch for writes from here on."""
        self._tracker.scan()
        for resident in residents:
            resident.watch.take()
            resident.note_versions()
        sources = [(resident, tensor) for resident in residents if (tensor := resident.tensor()) is not None]
        digests = self._hasher.digest_tensors([tensor for _, tensor in sources])
        for (resident, _), content in zip(sources, digests, strict=True):
            resident.content = None if resident.watch.foreign else content  # by now it may be what another wrote
            self._channel.settled(resident.handle)

    def hold(self, residents: Iterable[Resident]) -> None:
        """Say that a program is about to change these."""
        for resident in residents:
            if (tensor := resident.tensor()) is not None:
                self._channel.hold(resident.handle, tensor)

    def restore(self) -> None:
        """Make everything resident again, on a daemon that has none of the handles."""
        for handle in self._freed:
            self._channel.gone(handle)
        found = {resident: resident.tensor() for resident in self._residents.values()}
        dense = {resident: dense_for_wire(tensor) for resident, tensor in found.items() if tensor is not None}
        for resident in found.keys() - dense.keys():
            self._channel.gone(resident.handle)
        specs = [spec_of(tensor) for tensor in dense.values()]
        foreign = [resident.watch.foreign for resident in dense]
        contents = self._settle(specs, [tensor_bytes(tensor) for tensor in dense.values()], foreign, ask=True)
        for resident, spec, content in zip(dense, specs, contents, strict=True):
            same = resident.content is not None and resident.content.digest == content.digest
            self._channel.adopt_again(resident.handle, content.digest, spec, same=same)
            resident.content = content

    def close(self) -> None:
        """Stop watching. The handles end with the session."""
        self._tracker.unwatch([*self._unwatched, *(resident.watch for resident in self._residents.values())])
        self._unwatched.clear()
        self.inbox.clear()
        self._residents.clear()
        self._owners.clear()
        self._hasher.close()

    def _create(self, fresh: dict[Layout, torch.Tensor], ask: bool) -> None:
        if not fresh:
            return
        for tensor in fresh.values():
            require_cpu(tensor)
        watches = self._tracker.watch(list(fresh.values()), self.inbox)  # before hashing: later writes are noticed
        try:
            dense = [dense_for_wire(tensor) for tensor in fresh.values()]
            specs = [spec_of(tensor) for tensor in dense]
            foreign = [watch.foreign for watch in watches]
            contents = self._settle(specs, [tensor_bytes(tensor) for tensor in dense], foreign, ask)
        except BaseException:
            self._tracker.unwatch(watches)
            raise
        for layout, spec, watch, content in zip(fresh, specs, watches, contents, strict=True):
            handle = self._channel.mint()
            self._channel.adopt(handle, content.digest, spec)
            self._residents[layout] = Resident(handle, layout, spec, watch, content, set())

    def _settle(
        self, specs: list[TensorSpec], views: list[memoryview], foreign: list[bool], ask: bool
    ) -> list[TensorDigest]:
        """See to it that the daemon has these contents: hash all, ask once, upload each missing one once."""
        contents = self._hasher.digest_views(specs, views)
        digests = list(dict.fromkeys(content.digest for content in contents))
        absent = self._channel.missing(digests if ask else [])
        lacking = {digest for position, digest in enumerate(digests) if position in absent or not ask}
        moving = [index for index, content in enumerate(contents) if foreign[index] and content.digest in lacking]
        still = {content.digest: index for index, content in enumerate(contents) if not foreign[index]}
        try:
            self._store(specs, views, contents, [index for digest, index in still.items() if digest in lacking])
            for index in moving:  # one by one: each is copied, so that its digest is that of the bytes sent
                views[index] = memoryview(views[index].tobytes())
                (contents[index],) = self._hasher.digest_views([specs[index]], [views[index]])
                self._store(specs, views, contents, [index])
                views[index] = memoryview(b"")
            if lacking:
                self._channel.sync()  # a content for which there is no room is an error of this call, of nothing else
        except (QuotaExceeded, torch.OutOfMemoryError):
            self._channel.missing([])  # what did arrive is not held for us any longer
            raise
        return contents

    def _store(
        self, specs: list[TensorSpec], views: list[memoryview], contents: list[TensorDigest], indices: Sequence[int]
    ) -> None:
        following = iter(indices)

        def store(upload: int) -> None:
            index = next(following)
            self._channel.store(contents[index].digest, specs[index], upload)

        self._upload([views[index] for index in indices], store)

    def _upload(self, views: list[memoryview], arrived: Callable[[int], None]) -> None:
        nbytes = sum(view.nbytes for view in views)
        with ExitStack() as stack:
            shown = self._progress and nbytes > LONG_NBYTES
            progress = stack.enter_context(weights_bar(nbytes, "uploading weights")) if shown else None
            if views:
                self._channel.upload_many(views, arrived, progress=progress)

    def _send_changes(self, rechecks: dict[Resident, Recheck]) -> bool:
        digests = iter(self._hasher.digest_parts([part for recheck in rechecks.values() for part in recheck.parts()]))
        fresh = {resident: list(islice(digests, len(recheck.runs))) for resident, recheck in rechecks.items()}
        diffs = {resident: recheck.compare(fresh[resident]) for resident, recheck in rechecks.items()}
        changed = [(resident, *part) for resident, diff in diffs.items() for part in diff.changed]
        uploads: list[int] = []
        self._upload([part for _, _, part in changed], uploads.append)
        for (resident, low, _), upload in zip(changed, uploads, strict=True):
            self._channel.patch(resident.handle, low, upload)
        for resident, diff in diffs.items():
            if diff.changed:
                resident.content = TensorDigest.of_chunks(resident.spec, diff.chunks)
        return bool(changed)

    def _attach(self, tensor: torch.Tensor, resident: Resident) -> None:
        owner = self._owners.get(id(tensor))
        if owner is None:
            owner = self._owners[id(tensor)] = Owner(tensor, self._dead.append)
        if owner.resident is resident:
            return
        known_place = bool(resident.owners)
        resident.owners.add(owner)
        self._detach(owner)
        owner.resident = resident
        if known_place:
            self._watch_again(resident, tensor)

    def _detach(self, owner: Owner) -> None:
        resident, owner.resident = owner.resident, None
        if resident is None:
            return
        self.epoch += 1
        resident.owners.discard(owner)
        if not resident.owners:
            del self._residents[resident.layout]
            self._freed.append(resident.handle)
            self._unwatched.append(resident.watch)
        elif (tensor := resident.tensor()) is not None:
            self._watch_again(resident, tensor)

    def _watch_again(self, resident: Resident, tensor: torch.Tensor) -> None:
        """Watch a known place through another tensor, and trust nothing that was noted of it."""
        self.epoch += 1
        self._unwatched.append(resident.watch)
        (resident.watch,) = self._tracker.watch([tensor], self.inbox)
        resident.watch.mark_all()


def _recheck(resident: Resident, everything: bool) -> Recheck | None:
    """Take what the watch collected and say which bytes must be compared; None when the memory is gone."""
    written = resident.watch.take()
    tensor = resident.tensor()
    if tensor is None:
        return None
    dense = dense_for_wire(tensor)
    known = None if resident.content is None else resident.content.chunks
    looked_at = None if everything or dense is not tensor else written
    return Recheck.of(tensor_bytes(dense), known, looked_at, foreign=resident.watch.foreign)
