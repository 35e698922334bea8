"""The journal of one session: what each handle alive was made by, and what that had read.

It is told of every command in the order in which they are queued, and keeps of them what something alive depends on.
Every call pays for this, so it does as little as it can: what the journal means is worked out when a worker has died.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.errors import NotRecoverable
from dynamo_genie.runtime.recovery.held import FREE_NBYTES, Budget, Contents, FromFile, Offered
from dynamo_genie.runtime.recovery.records import (
    Bound,
    Need,
    Receiving,
    Record,
    Sending,
    SharedMemory,
    Takes,
    Weight,
    needs_of,
    reach,
)
from dynamo_genie.runtime.recovery.sent import Registered, SentBinding
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import InlineTensor

TOO_MUCH = "what it was computed from was more than a session keeps on the client"
FROM_ELSEWHERE = "it was computed from a tensor of another daemon, which does not send it again"
NOTHING = "it was computed from what was not there"
OTHER_WEIGHTS = "weights that it was computed from have changed since"


class Journal:
    """What a session's worker was asked, as far as it matters. The session's lock guards all calls.

    Attributes:
        made: For each handle that is not freed, what made it.
        memories: The memory of those that were written or share theirs.
        programs, bindings: All that were sent, by their numbers.
        lost: Handles that could not be made again, and why not.
        pending: The last command that is to be answered, until it is.
        asked: The record of the last call that is to be answered.
        order: The number of the last record; above those of all that it was sent by others.
        heard: The last record of which it is known that the worker has done it.
        last_reads: What the last call read.
        given_up: Up to which record no call gives the same bits again, and why.
    """

    def __init__(self, device: str = "cpu", budget: Budget | None = None) -> None:
        """Begin, for a worker on this kind of device."""
        self.device = device
        self.made: dict[int, Record] = {}
        self.memories: dict[int, SharedMemory] = {}
        self.programs: dict[int, Registered] = {}
        self.bindings: dict[int, SentBinding] = {}
        self.lost: dict[int, str] = {}
        self.pending: m.Command | None = None
        self.asked: Record | None = None
        self.order = self.heard = 0
        self.given_up = 0, ""
        self.last_reads: tuple[int, ...] = ()
        self.budget = budget or Budget()
        self._epoch = 0
        self._last_received = 0
        self._notes: MappingProxyType[type, Callable[[Any], None]] = MappingProxyType(
            {
                m.Call: self._call,
                m.Put: self._put,
                m.BindWeights: self._bind,
                m.AdoptWeight: self._adopt,
                m.PatchWeight: self._patch,
                m.Fetch: self._read,
                m.Describe: self._read,
                m.SendTensor: self._send,
                m.Sync: self._ask,
                m.Inspect: self._ask,
                m.QueryWeights: self._ask,
                m.ListModels: self._ask,
                m.DescribeModel: self._ask,
                m.LoadWeights: self._ask,
            }
        )

    def note(self, command: m.Command) -> None:
        """Note a command that is about to be queued.

        Raises:
            NotRecoverable: It reads what could not be made again.
        """
        note = self._notes.get(type(command))
        if note is not None:
            note(command)

    def forget(self, handles: Iterable[int]) -> None:
        """Note that handles are free."""
        made, memories = self.made, self.memories
        for handle in handles:
            record = made.pop(handle, None)
            if type(record) is Weight:
                self._replaced(record)
            if memories and (memory := memories.pop(handle, None)) is not None:
                memory.handles.discard(handle)
        if self.lost:
            for handle in handles:
                self.lost.pop(handle, None)

    def register(self, number: int, digest: bytes, encoded: bytes, engine: str) -> None:
        """Note a program that is about to be sent."""
        self.programs[number] = Registered(digest, encoded, engine, self.device)

    def give_up_calls(self, reason: str) -> None:
        """Note why no call so far gives the same bits again."""
        self.given_up = self.order, reason

    def answered(self) -> None:
        """Note that what was waited for has come, or that nobody waits any more."""
        self.pending = self.asked = None

    def put(self, handle: int, contents: Contents | None) -> None:
        """Note a handle that is about to be made from an upload; without contents it cannot be made again."""
        record = self.made[handle] = Record(self._next(), held=contents)
        if contents is None:
            record.lost = TOO_MUCH

    def loaded(self, handle: int, found: FromFile | Offered) -> None:
        """Note a handle that was made of what the daemon had, from which it can be made again."""
        self.made[handle] = Record(self._next(), held=found)

    # --- weights -------------------------------------------------------------------------------------------

    def hold_weight(self, handle: int, tensor: torch.Tensor) -> None:
        """Keep a copy of what a weight has now, because a program is about to change it."""
        record = self.made.get(handle)
        if type(record) is Weight and record.held is None and handle not in self.memories:
            dense = tensor.detach().clone(memory_format=torch.preserve_format)
            record.held = Contents.of(dense, self.budget, private=True)

    def settled(self, handle: int) -> None:
        """Note that a weight is again what the program has here, after it was changed by a call."""
        memory = self.memories.get(handle)
        if memory is not None and len(memory.handles) == 1:
            del self.memories[handle]
            self.changed(handle)

    def adopted_again(self, handle: int, *, same: bool) -> None:
        """Note what a weight is on another worker: the `same` as on the last one, or what the program has here now."""
        if not same or type(self.made.get(handle)) is not Weight:
            self.changed(handle)

    def changed(self, handle: int) -> None:
        """Note that a weight has other contents from now on, which the program has here."""
        memory = self.memories.pop(handle, None)
        if memory is not None:
            memory.handles.discard(handle)
        self._adopted(handle)

    def _adopted(self, handle: int) -> None:
        record = self.made.get(handle)
        if type(record) is Weight:
            self._replaced(record)
        self.made[handle] = Weight(self._next(), handle)
        self._epoch += 1

    def _replaced(self, weight: Weight) -> None:
        weight.current = False
        self._epoch += 1
        if weight.held is None:
            weight.lost = OTHER_WEIGHTS

    def _adopt(self, command: m.AdoptWeight) -> None:
        if not command.viewed:
            self._adopted(command.handle)

    def _patch(self, command: m.PatchWeight) -> None:
        memory = self.memories.get(command.handle)
        if memory is not None and len(memory.handles) > 1:  # what shares it is not what the program has here
            memory.last = Record(self._next())
            memory.last.lost = OTHER_WEIGHTS
        self.changed(command.handle)

    def _bind(self, command: m.BindWeights) -> None:
        memory, inputs = self.programs[command.program].memory
        self.bindings[command.binding] = SentBinding(command, Takes.of(memory, inputs, command.positions))

    def _nothing(self) -> Record:
        record = Record(self._next())
        record.lost = NOTHING
        return record

    # --- tensors -------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self.order += 1
        return self.order

    def _put(self, command: m.Put) -> None:
        record = self.made[command.handle] = Record(self._next(), held=command.tensor)
        self._count(record, len(command.tensor.data))

    def _call(self, call: m.Call) -> None:
        made, inputs, bound = self.made, call.inputs, None
        if call.binding:
            binding = self.bindings[call.binding]
            takes = binding.takes
            bound = binding.bound
            if binding.epoch != self._epoch:
                bound = self._bound(binding)
        else:
            takes = self.programs[call.program].takes
        unsteady = self.programs[call.program].unsteady
        reads = tuple([each for i in takes.tensors if type(each := inputs[i]) is int])
        if self.lost:
            self.require(reads)
        self.order = order = self.order + 1
        record = Record(order, call)
        record.reads, record.bound, record.takes = reads, bound, takes
        self.last_reads = reads
        record.births = tuple(map(made.get, reads))  # type: ignore[arg-type]  # None only where the next line looks
        record.lost = unsteady
        if None in record.births:
            record.reads, record.births, record.lost = (), (), NOTHING
        if len(reads) < len(takes.tensors) or call.rng:
            self._count(record, len(call.rng) + sum(len(each.data) for each in inputs if type(each) is InlineTensor))
        if self.memories:
            record.writes = tuple(
                [(memory.last, h) for h in reads if (memory := self.memories.get(h)) is not None and memory.last]
            )
        made.update(dict.fromkeys(call.outputs, record))
        made.pop(0, None)
        if not takes.plain:
            self._note_memory(record, call, takes)
        if call.request_id:
            self.pending, self.asked = call, record

    def _bound(self, binding: SentBinding) -> Bound:
        """Return what a binding names now."""
        handles = binding.command.handles
        writes = [(memory.last, h) for h in handles if (memory := self.memories.get(h)) is not None and memory.last]
        births = tuple(self.made.get(h) or self._nothing() for h in handles)
        binding.bound = Bound(binding.command, births, tuple(writes))
        binding.epoch = self._epoch
        return binding.bound

    def _count(self, record: Record, nbytes: int) -> None:
        """Count what a record holds; where there is no room for it, it cannot be done again."""
        if nbytes >= FREE_NBYTES:
            record.share = self.budget.take(nbytes)
            if record.share is None:
                record.command = record.held = None
                record.lost = TOO_MUCH

    def _note_memory(self, record: Record, call: m.Call, takes: Takes) -> None:
        """Note what a call wrote, and which of its results lie in one memory with something else."""
        handles = self.bindings[call.binding].command.handles if call.binding else ()
        for at in takes.written:
            self._memory(call.inputs[at]).last = record  # type: ignore[arg-type]  # it is a handle
        for at in takes.bound_written:
            self._memory(handles[at]).last = record
            self._epoch += 1
        for output, at in takes.sharing:
            if type(source := call.inputs[at]) is int:
                self._share(call.outputs[output], source)
        for output, at in takes.bound_sharing:
            self._share(call.outputs[output], handles[at])
        for group in takes.memory.together:
            named = [call.outputs[position] for position in group if call.outputs[position]]
            for other in named[1:]:
                self._share(other, named[0])

    def _memory(self, handle: int) -> SharedMemory:
        memory = self.memories.get(handle)
        if memory is None:
            memory = self.memories[handle] = SharedMemory({handle})
        return memory

    def _share(self, handle: int, other: int) -> None:
        """Note that two handles may lie in one memory."""
        if not handle or handle == other:
            return
        one, two = self._memory(handle), self._memory(other)
        if one is not two:
            if one.last is not None and two.last is not None:  # what comes now follows both
                join = Record(self._next())
                join.reads = handle, other
                join.births = self.made[handle], self.made[other]
                join.writes = (one.last, handle), (two.last, other)
                two.last = join
            two.last = two.last or one.last
            two.handles |= one.handles
            for each in one.handles:
                self.memories[each] = two

    # --- other sessions --------------------------------------------------------------------------------------

    def sending(self, handle: int, kind: str) -> Sending[Journal]:
        """Return the record of a tensor as it is now, which is about to be sent to another session.

        Raises:
            NotRecoverable: It could not be made again.
        """
        self.require((handle,))
        record: Sending[Journal] = Sending(self._next(), self, kind)
        birth, memory = self.made.get(handle), self.memories.get(handle)
        if birth is None:
            record.lost = NOTHING
            return record
        record.reads, record.births = (handle,), (birth,)
        if memory is not None and memory.last is not None:
            record.writes = ((memory.last, handle),)
        return record

    def receive(self, handle: int, sending: Sending[Journal] | None) -> None:
        """Note a handle that is about to be made from what another session sends; None: that one keeps no journal."""
        if sending is not None:
            self.order = max(self.order, sending.order)
        record = self.made[handle] = Receiving(self._next(), sending)
        self._last_received = record.order
        if sending is None:
            record.lost = FROM_ELSEWHERE

    @property
    def has_received(self) -> bool:
        """Whether another session has ever sent something."""
        return self._last_received > 0

    def awaits(self, senders: Collection[Journal]) -> bool:
        """Say whether something that is wanted may still be on its way from one of these sessions."""
        if self._last_received <= self.heard:
            return False
        return any(
            type(record) is Receiving
            and record.order > self.heard
            and record.sending is not None
            and record.sending.journal in senders
            for record in reach(self.all_needs()).whole
        )

    # --- questions -----------------------------------------------------------------------------------------

    def _ask(self, command: m.Sync | m.Inspect | m.QueryWeights | m.ModelCommand) -> None:
        self.pending = command

    def _read(self, command: m.Fetch | m.Describe) -> None:
        if self.lost:
            self.require(command.handles)
        self.pending = command

    def _send(self, command: m.SendTensor) -> None:
        if self.lost:
            self.require((command.handle,))

    def all_needs(self) -> list[Need]:
        """Return what the handles alive need, and the call that is waited for."""
        asked = [(self.asked, 0)] if isinstance(self.pending, m.Call) and self.asked is not None else []
        return [need for handle in self.made for need in self.needs_of(handle)] + asked

    def needs_of(self, handle: int) -> list[Need]:
        """Return what a handle alive needs to name what it names."""
        memory = self.memories.get(handle)
        writes = ((memory.last, handle),) if memory is not None and memory.last is not None else ()
        return list(needs_of((handle,), (self.made[handle],), writes))

    def require(self, handles: Sequence[int]) -> None:
        """Raise why one of these handles could not be made again."""
        for handle in handles:
            if handle in self.lost:
                raise NotRecoverable(
                    f"this tensor lived in a worker that ended, and it cannot be computed again: {self.lost[handle]}. "
                    "Read what must survive before that, or compute it again"
                )
