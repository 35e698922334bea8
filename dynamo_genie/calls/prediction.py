"""How many bytes a call will move, by tensor class: the call is rehearsed on sessions that lead nowhere.

A rehearsal runs the very code of the call, on a twin of each session that has counted as far and whose worker is a
stub here: it answers what a worker would, with sizes for contents. Nothing is sent, and nothing of the program changes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from dynamo_genie.calls.call import GraphCall
from dynamo_genie.calls.client_part import ClientPart
from dynamo_genie.calls.graph import sessions_of
from dynamo_genie.calls.parts import Placement
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.lowering.output_shapes import OutputMetadata, OutputShapes
from dynamo_genie.runtime.session.peer_mesh import PeerLink, PeerMesh
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, CREDIT_EVERY, MAX_FETCH_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensor.remote_tensor import RemoteTensor, handle_of
from dynamo_genie.tensors import spec_nbytes, spec_of

Bytes = Mapping[str, int]


def predict_call(
    placement: Placement, plan: CallPlan, shapes: OutputShapes, args: Sequence[Any], *, stepped: bool = False
) -> tuple[Bytes, Bytes]:
    """Return the bytes that a call of a bound graph will send and receive, by tensor class.

    Args:
        placement: The graph's parts, bound.
        plan: What is known of all calls.
        shapes: The shapes of the graph's results.
        args: The call's arguments.
        stepped: Whether an optimizer is taken to have changed all trained weights since the last call.
    """
    originals = {*placement.sessions, *sessions_of(args)}
    stubs = {session: StubWorker() for session in originals}
    twins = {session: session.twin(stub, stub.bulk) for session, stub in stubs.items()}
    call = GraphCall(placement, plan, shapes, [_on_twin(arg, twins) for arg in args], twins.values(), StubMesh())
    known = {twins[session]: stub.specs for session, stub in stubs.items()}
    bindings = iter(placement.bound)
    for part in placement.steps:
        if isinstance(part, ClientPart):
            _rehearse_here(call, part, known, args)
            continue
        bound = next(bindings)
        twin, specs = twins[bound.session], stubs[bound.session].specs
        for slot, handle in zip(bound.resident, bound.handle_ids, strict=False):  # constants are bound after them
            specs[handle] = _dense(args[slot].dtype, args[slot].shape)
            if stepped and args[slot].requires_grad:
                _change(twin, handle, args[slot].nbytes)
        call.send(part, bound, twin)
    wanted = call.read({})
    for i, named in call.named():
        output = call.metadata[i]
        known[named.session][named.id] = _spec_of(output)
    deque(wanted.receive(), 0)
    return _sum(twin.counters.sent for twin in twins.values()), _sum(t.counters.received for t in twins.values())


def _rehearse_here(
    call: GraphCall, part: ClientPart, known: Mapping[Session, dict[int, TensorSpec]], args: Sequence[Any]
) -> None:
    """Fetch what a part of the client reads, and take anything of the right size for what it makes."""
    for slot, shapes in zip(part.inputs, part.input_shapes, strict=True):
        handle = call.values[slot] if isinstance(call.values[slot], Handle) else handle_of(call.values[slot])
        if handle is not None:
            known[handle.session][handle.id] = _spec_of(shapes.evaluate(args)[0])
    deque(call.wanted_by(part).receive(), 0)
    for slot, shapes in zip(part.results, part.result_shapes, strict=True):
        output = shapes.evaluate(args)[0]
        made = output.dtype is not None
        call.values[slot] = torch.empty(output.shape or (), dtype=output.dtype) if made else output.value


class StubWorker:
    """Stands where the worker's control transport is: answers what must be answered, and keeps sizes alone.

    Attributes:
        specs: What is known of tensors, by the ids of their handles.
        bulk: Stands where the bulk transport is.
    """

    def __init__(self) -> None:
        self.specs: dict[int, TensorSpec] = {}
        self.bulk = StubBulk()
        self.interrupted = False
        self._sequence = 0
        self._answers: deque[bytes] = deque()

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        """Take a batch of commands."""
        batch = codec.client_to_worker(message)
        assert isinstance(batch, m.Batch)
        self._sequence = batch.sequence
        for command in batch.commands:
            answer = self._answer(command)
            if answer is not None:
                self._answers.append(codec.encode(answer))
        return True

    def receive(self) -> bytes | None:
        """Give the next answer; who waits without a question wants to hear that what was sent has run."""
        return self._answers.popleft() if self._answers else codec.encode(m.Acknowledged(self._sequence))

    def renew(self) -> None:
        """Do nothing: this leads nowhere."""

    def _answer(self, command: m.Command) -> m.WorkerToClient | None:
        match command:
            case m.Put():
                self.specs[command.handle] = command.tensor.spec
            case m.PutUploaded():
                self.specs[command.handle] = command.spec
            case m.Call() if command.rng:
                return m.RngAdvanced(command.request_id, command.rng)
            case m.Call() if command.request_id:
                return m.Done(command.request_id)
            case m.Describe():
                return m.Described(command.request_id, tuple(self.specs.get(i, _ONE) for i in command.handles))
            case m.Fetch():
                return self._fetched(command)
            case m.Sync():
                return m.Done(command.request_id)
        return None

    def _fetched(self, command: m.Fetch) -> m.Fetched:
        room, tensors = MAX_FETCH_INLINE_NBYTES, []
        for spec in (self.specs.get(i, _ONE) for i in command.handles):
            nbytes = spec_nbytes(spec)
            inline = nbytes <= room
            room -= nbytes if inline else 0
            tensors.append(
                m.FetchedTensor(spec, bytes(nbytes)) if inline else m.FetchedTensor(spec, b"", self.bulk.offer(nbytes))
            )
        return m.Fetched(command.request_id, tuple(tensors))


class StubBulk:
    """Stands where the worker's bulk socket is: takes and gives bytes without looking at them."""

    def __init__(self) -> None:
        self.interrupted = False
        self._answers: deque[m.BulkToClient] = deque()
        self._upload = m.UploadBegin(0, 0)
        self._arrived = 0
        self._chunks = 0

    def offer(self, nbytes: int) -> int:
        """Let the client download so many bytes; return the number of the download."""
        self._answers.extend(m.Chunk(_A_DOWNLOAD, offset) for offset in range(0, nbytes, CHUNK_NBYTES))
        return _A_DOWNLOAD

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        """Take a message, and forget the chunk that comes with it."""
        begun = codec.to_bulk(message)
        if isinstance(begun, m.UploadBegin):
            self._upload, self._arrived = begun, 0
        elif body is None:
            return True
        else:
            self._arrived += len(body)
            self._chunks += 1
            if self._chunks % CREDIT_EVERY == 0:
                self._answers.append(m.Credit(CREDIT_EVERY))
        if self._arrived == self._upload.nbytes:
            self._answers.append(m.UploadDone(self._upload.upload))
        return True

    def renew(self) -> None:
        """Do nothing: this leads nowhere."""

    def receive(self) -> bytes | None:
        """Give the next header."""
        return codec.encode(self._answers.popleft())

    def receive_body(self, room: memoryview | None = None, /) -> int:
        """Give the chunk that the last header announced, whatever lies in `room`."""
        return 0 if room is None else len(room)


class StubMesh(PeerMesh):
    """Links that are open already."""

    def link(self, source: Session, target: Session) -> PeerLink:
        return PeerLink(source, target, 1, 1, (source.attachment, target.attachment))


_ONE = TensorSpec("float32", (1,), (1,))
"""Stands for a tensor of which nothing is known."""

_A_DOWNLOAD = 200
"""Stands for the numbers of downloads, which count from 1 and take one to three bytes."""


def _on_twin(arg: Any, twins: Mapping[Session, Session]) -> Any:
    """Return an argument as it is on the twin of its session."""
    handle = handle_of(arg)
    if handle is None:
        return arg
    there = Handle(handle.id, twins[handle.session], deque())
    kind = type(arg) if isinstance(arg, RemoteTensor) else RemoteTensor
    return kind(arg.shape, arg.stride(), arg.dtype, there, None, arg.storage_offset())


def _change(twin: Session, handle: int, nbytes: int) -> None:
    """Send all of a resident weight again, piece by piece."""
    piece = memoryview(bytes(min(nbytes, CHUNK_NBYTES)))
    for offset in range(0, nbytes, CHUNK_NBYTES):
        twin.weight_channel.patch(handle, offset, twin.upload(piece[: nbytes - offset]))


def _spec_of(output: OutputMetadata) -> TensorSpec:
    assert output.dtype is not None
    return _dense(output.dtype, output.shape or ())


def _dense(dtype: torch.dtype, shape: Sequence[int]) -> TensorSpec:
    return spec_of(torch.empty(shape, dtype=dtype, device="meta"))


def _sum(counts: Iterable[Counter[str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for own in counts:
        found.update(own)
    return found
