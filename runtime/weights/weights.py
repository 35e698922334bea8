"""The static inputs of compiled functions, kept on the daemon and proven equal to the local ones before each use.

A binding stands for the parameters and buffers of one compiled function. `sync` is what a call pays for them when
nothing changed: three comparisons over the list and one look at the kernel's record of written pages. Of weights for
which that record cannot tell (shared memory, a kernel that keeps none), all bytes are hashed, unless a binding is
content with a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from dynamo_genie.runtime.weights.resident_store import Resident, ResidentStore, version_of
from dynamo_genie.runtime.weights.tensor_identity import TensorIdentities
from dynamo_genie.runtime.weights.weight_channel import WeightChannel
from dynamo_genie.runtime.writes.watch import WriteTracker

__all__ = ["ResidentWeights", "WeightBinding", "WeightChannel"]


class ResidentWeights:
    """The weights of one session. Give it the process's one tracker; the session's lock guards all calls."""

    def __init__(self, channel: WeightChannel, tracker: WriteTracker, *, progress: bool = False) -> None:
        self._store = ResidentStore(channel, tracker, progress=progress)
        self._whole = channel.whole

    def bind(
        self,
        tensors: Sequence[torch.Tensor],
        mutated: frozenset[int] = frozenset(),
        *,
        ask: bool = True,
        sampled: bool = False,
    ) -> WeightBinding:
        """Make these CPU tensors resident and return their handles, in order.

        `mutated` names the positions that the program changes on the daemon. Contents are shared, handles are not:
        two positions have one handle only when they are the same memory. Without `ask`, contents are sent that the
        daemon may have from another session: what a system does that does not know weights by their content. With
        `sampled`, weights whose writes the kernel cannot tell are judged by their versions and a sample of their bytes.
        """
        return self._whole(lambda: WeightBinding(self._store, tensors, mutated, ask, sampled))

    def assume(self, tensors: Sequence[torch.Tensor], handles: Sequence[int]) -> None:
        """Take it that the daemon holds these CPU tensors already, under these handles of the session.

        For weights that were computed in the daemon: from here on they are as resident as uploaded ones, and a later
        write is sent. Contents are not compared; whoever calls this knows them to be equal, and drops no handle before
        its tensor. None of them may be resident yet.
        """
        store = self._store
        store.sweep()
        store.assume(tensors, handles)
        store.flush()

    def refresh(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Compare whole contents with the daemon's copies and send what differs; tensors not resident are skipped.

        The sure way where a binding is content with a sample and weights are written behind PyTorch's back.
        """
        return self._whole(lambda: self._refresh(list(tensors)))

    def _refresh(self, tensors: Sequence[torch.Tensor]) -> bool:
        store = self._store
        store.sweep()
        owners = [owner for tensor in tensors if (owner := store.owner_of(tensor)) is not None]
        residents = frozenset(owner.resident for owner in owners if owner.resident is not None)
        for resident in residents:
            resident.note_versions()
        sent = store.refresh(residents, everything=residents)
        store.flush()
        return sent

    def sweep(self) -> None:
        """Give up the handles of tensors that died."""
        self._store.sweep()
        self._store.flush()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Say whether this local tensor is resident on the daemon by way of this session."""
        return self._resident(tensor) is not None

    def change(self, tensors: Iterable[torch.Tensor]) -> None:
        """Say that a program of another session is about to change these tensors, of which some may be resident."""
        self._store.hold(resident for tensor in tensors if (resident := self._resident(tensor)) is not None)

    def _resident(self, tensor: torch.Tensor) -> Resident | None:
        owner = self._store.owner_of(tensor)
        return owner.resident if owner is not None and owner() is tensor else None

    def close(self) -> None:
        """Stop watching; for the end of the session, which frees the handles."""
        self._store.close()


class WeightBinding:
    """The static inputs of one compiled function. `generation` rises whenever `handles` changes."""

    def __init__(
        self,
        store: ResidentStore,
        tensors: Sequence[torch.Tensor],
        mutated: frozenset[int],
        ask: bool,
        sampled: bool,
    ) -> None:
        self.generation = 0
        self.mutated = mutated
        self._store = store
        self._ask = ask
        self._sampled = sampled
        store.sweep()
        self._residents: list[Resident] = store.acquire(tensors, ask=ask)
        self._note(tensors)
        self._finish(self._changed_contents(tensors))

    @property
    def handles(self) -> tuple[int, ...]:
        """The handles that stand for the tensors, in order."""
        return self._handles

    def sync(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Bring the daemon's copies up to date with these tensors; say whether anything had to be done.

        Call it with the tensors of each call. After True, look at `generation`: the handles may be others.
        """
        store = self._store
        store.sweep()
        rebound = False
        if store.epoch != self._epoch or not self._identities.unchanged(tensors):
            rebound = self._rebind(tensors)
        return self._finish(rebound | self._changed_contents(tensors))

    def hold_written(self) -> None:
        """Say that the program is about to change what it changes."""
        self._store.hold(self._residents[position] for position in self.mutated)

    def mark_in_sync(self) -> None:
        """Say that the local tensors equal the daemon's again: after what the program changes was written back."""
        self._store.note_in_sync(list(dict.fromkeys(self._residents[position] for position in sorted(self.mutated))))

    def forget_written(self) -> None:
        """Say that what the program changes is not what it should be on the daemon: the next call sends it anew."""
        self._store.forget(dict.fromkeys(self._residents[position] for position in sorted(self.mutated)))

    def _rebind(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Find the residents of the positions whose tensor is new or lies elsewhere; True if handles changed."""
        positions = self._identities.changed(tensors)
        known = zip(map(self._store.owner_of, tensors), self._residents, strict=True)
        positions += [
            position for position, (o, resident) in enumerate(known) if o is None or o.resident is not resident
        ]
        found = self._store.acquire([tensors[position] for position in positions], ask=self._ask)
        for position, resident in zip(positions, found, strict=True):
            self._residents[position] = resident
        before = self._handles
        self._note(tensors)
        self.generation += self._handles != before
        return self._handles != before

    def _note(self, tensors: Sequence[torch.Tensor]) -> None:
        self._identities = TensorIdentities(tensors)
        self._handles = tuple(resident.handle for resident in self._residents)
        self._by_watch = {resident.watch: resident for resident in self._residents}
        self._epoch = self._store.epoch
        self._note_inexact()

    def _note_inexact(self) -> None:
        """Find the positions where a write may go unseen: they are looked at at every use."""
        self._inexact = [position for position, resident in enumerate(self._residents) if not resident.watch.exact]

    def _changed_contents(self, tensors: Sequence[torch.Tensor]) -> bool:
        store = self._store
        store.scan()
        doubtful = self._doubtful(tensors) if self._inexact else frozenset()
        if not doubtful and store.inbox.isdisjoint(self._by_watch):
            return False
        written = {self._by_watch[watch] for watch in store.inbox.intersection(self._by_watch)}
        sent = store.refresh(written | doubtful, everything=doubtful)
        self._note_inexact()
        return sent

    def _doubtful(self, tensors: Sequence[torch.Tensor]) -> frozenset[Resident]:
        """Return the residents that must be compared whole: they may have changed and left no trace."""
        if self._sampled:
            return self._bumped(tensors)
        return frozenset(self._residents[position] for position in self._inexact)

    def _bumped(self, tensors: Sequence[torch.Tensor]) -> frozenset[Resident]:
        """Return the residents whose tensors have another version than when they were last compared."""
        found = set()
        for position in self._inexact:
            tensor, owner = tensors[position], self._store.owner_of(tensors[position])
            if owner is not None and owner.version != (version := version_of(tensor)):
                owner.version = version
                found.add(self._residents[position])
        return frozenset(found)

    def _finish(self, changed: bool) -> bool:
        self._store.flush()
        return changed
