"""How many bytes a call will move, by tensor class, found by encoding the very messages it will send.

Nothing is sent, and no value is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dynamo_genie.explain.expected_call import (
    ExpectedCall,
    ExpectedInput,
    ExpectedPart,
    LocalTensor,
    ReadBack,
    RemoteTensorInput,
    SessionNumbers,
)
from dynamo_genie.explain.representative import inline_data
from dynamo_genie.observe import CallTraffic
from dynamo_genie.passes.placement.plan import Cut
from dynamo_genie.runtime.session.command_stream import FLUSH_AT_COMMANDS, FLUSH_AT_NBYTES
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, CREDIT_EVERY, MAX_FETCH_INLINE_NBYTES, MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import Dtype, InlineTensor, TensorSpec
from dynamo_genie.tensors import TORCH_DTYPES

RNG_STATE_NBYTES = 5056
"""The state of PyTorch's CPU generator."""

A_LINK = 1
A_TRANSFER = 200
"""Stands for the numbers of uploads and downloads, which count from 1 and take one to three bytes."""

_TENSOR_CLASS = {"weight": "weight", "buffer": "weight", "kv_cache": "kv_cache", "gradient": "gradient"}


def predict_call(call: ExpectedCall, cuts: Iterable[Cut] = (), step_s: float = math.nan) -> CallTraffic:
    """Return what a call will move; `cuts` are the values that go from daemon to daemon meanwhile."""
    return predict_parts([ExpectedPart("", call)], cuts, step_s)


def predict_parts(parts: Sequence[ExpectedPart], cuts: Iterable[Cut] = (), step_s: float = math.nan) -> CallTraffic:
    """Return what a call of a graph in parts will move: all parts are sent, then what the client wants is read."""
    streams: dict[str, _Stream] = {}
    reads: dict[str, list[ReadBack]] = {}
    for part in parts:
        stream = streams.setdefault(part.device, _Stream(part.call.numbers))
        for source, kind in part.moves:
            streams.setdefault(source, _Stream(part.call.numbers)).send(kind)
            stream.receive()
        stream.call(part.call)
        reads.setdefault(part.device, []).extend(part.call.reads)
    if len(streams) > 1:
        for stream in streams.values():
            stream.flush()
    for device, stream in streams.items():
        if wanted := reads.get(device):
            stream.fetch(wanted)
        stream.flush()
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()
    for stream in streams.values():
        for total, own in ((sent, stream.sent), (received, stream.received)):
            for kind, nbytes in own.items():
                total[kind] += nbytes
    return CallTraffic(sent, received, traffic_between(cuts), step_s)


def traffic_between(cuts: Iterable[Cut]) -> Counter[str]:
    """Return the bytes that cross between daemons, by tensor class."""
    found: Counter[str] = Counter()
    for cut in cuts:
        found[_TENSOR_CLASS.get(cut.role, "activation")] += cut.nbytes
    return found


class _Stream:
    """Writes the messages of a call as `CompiledGraph` and `Session` would, and counts them as they do."""

    def __init__(self, numbers: SessionNumbers) -> None:
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self._ids, self._requests, self._batches = numbers.ids, numbers.requests, numbers.batches
        self._transfers = numbers.transfers
        self._queue: list[m.Command] = []
        self._queued_nbytes = 0
        self._outputs: tuple[int, ...] = ()

    def call(self, call: ExpectedCall) -> None:
        """Count a call, but for what is read back."""
        for nbytes in call.changed:
            self._patch(call.binding, nbytes)
        inputs = tuple(map(self._input, call.inputs))
        outputs = (*(self._mint() for _ in range(call.n_outputs)), *(0,) * call.n_dropped)
        if call.draws:
            state = bytes(RNG_STATE_NBYTES)
            self._post(m.Call(call.program, call.binding, inputs, outputs, self._request(), state), len(state))
            self._answer(m.RngAdvanced(self._requests, state))
        else:
            self._post(m.Call(call.program, call.binding, inputs, outputs))
        if call.describes:
            self._post(m.Describe(self._request(), outputs[: call.n_outputs]))
            self._answer(m.Described(self._requests, tuple(_spec("float32", (1,) * rank) for rank in call.describes)))
        self._outputs = outputs

    def send(self, kind: str) -> None:
        """Count having the daemon send a tensor to another one."""
        self._post(m.SendTensor(max(self._ids, 1), A_LINK, self._transfers, kind))
        self.flush()

    def receive(self) -> None:
        """Count having the daemon wait for a tensor of another one."""
        self._post(m.ReceiveTensor(self._mint(), A_LINK, self._transfers, 1.0))

    # --- out -----------------------------------------------------------------------------------------------

    def _input(self, value: ExpectedInput) -> m.CallInput:
        if isinstance(value, RemoteTensorInput):
            return value.handle
        if not isinstance(value, LocalTensor):
            return value
        nbytes, spec = _nbytes(value.dtype, value.shape), _spec(value.dtype, value.shape)
        inline = self._inline(value, spec, nbytes) if nbytes <= MAX_INLINE_NBYTES else None
        if inline is not None and not value.written:
            return inline
        handle = self._mint()
        if inline is not None:
            self._post(m.Put(handle, inline), len(inline.data))
        else:
            self._upload(nbytes, value.kind)
            self._post(m.PutUploaded(handle, spec, A_TRANSFER))
        return handle

    def _inline(self, value: LocalTensor, spec: TensorSpec, nbytes: int) -> InlineTensor:
        data, packed = inline_data(value, nbytes)
        self.sent[value.kind] += len(data)
        self.sent["control"] -= len(data)
        return InlineTensor(spec, data, packed)

    def _patch(self, binding: int, nbytes: int) -> None:
        """Count what sending a changed weight takes: piece by piece, each with a message that puts it in its place."""
        for offset in range(0, nbytes, CHUNK_NBYTES):
            self._upload(min(CHUNK_NBYTES, nbytes - offset), "weight")
            self._post(m.PatchWeight(binding, offset, A_TRANSFER))

    def _upload(self, nbytes: int, kind: str) -> None:
        """Count what `BulkConnection.upload` sends and hears."""
        offsets = range(0, nbytes, CHUNK_NBYTES)
        headers = [m.UploadBegin(A_TRANSFER, nbytes), *(m.Chunk(A_TRANSFER, offset) for offset in offsets)]
        self.sent["control"] += sum(len(codec.encode(header)) for header in headers)
        self.sent[kind] += nbytes
        self.received["control"] += len(codec.encode(m.UploadDone(A_TRANSFER)))
        self.received["control"] += len(offsets) // CREDIT_EVERY * len(codec.encode(m.Credit(CREDIT_EVERY)))

    def _post(self, command: m.Command, nbytes: int = 64) -> None:
        self._queue.append(command)
        self._queued_nbytes += nbytes
        if len(self._queue) >= FLUSH_AT_COMMANDS or self._queued_nbytes >= FLUSH_AT_NBYTES:
            self.flush()

    def flush(self) -> None:
        """Count the batch of what is queued."""
        if self._queue:
            self._batches += 1
            self.sent["control"] += len(codec.encode(m.Batch(self._batches, tuple(self._queue))))
            self._queue, self._queued_nbytes = [], 0

    def _mint(self) -> int:
        self._ids += 1
        return self._ids

    def _request(self) -> int:
        self._requests += 1
        return self._requests

    # --- in ------------------------------------------------------------------------------------------------

    def _answer(self, message: m.WorkerToClient) -> None:
        self.flush()
        self.received["control"] += len(codec.encode(message))

    def fetch(self, reads: Sequence[ReadBack]) -> None:
        """Count what comes back with the call."""
        self._post(m.Fetch(self._request(), (*self._outputs, *(self._ids,) * len(reads))[-len(reads) :]))
        room, tensors = MAX_FETCH_INLINE_NBYTES, []
        for read in reads:
            nbytes, spec = _nbytes(read.dtype, read.shape), _spec(read.dtype, read.shape)
            self.received[read.kind] += nbytes
            if nbytes <= room:
                room -= nbytes
                tensors.append(m.FetchedTensor(spec, bytes(nbytes)))
                self.received["control"] -= nbytes
            else:
                tensors.append(m.FetchedTensor(spec, b"", A_TRANSFER))
                self._download(nbytes)
        self._answer(m.Fetched(self._requests, tuple(tensors)))

    def _download(self, nbytes: int) -> None:
        """Count what `BulkConnection.download` hears and sends, without the data itself."""
        offsets = range(0, nbytes, CHUNK_NBYTES)
        self.received["control"] += sum(len(codec.encode(m.Chunk(A_TRANSFER, offset))) for offset in offsets)
        self.sent["control"] += len(offsets) // CREDIT_EVERY * len(codec.encode(m.Credit(CREDIT_EVERY)))


def _nbytes(dtype: Dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * TORCH_DTYPES[dtype].itemsize


def _spec(dtype: Dtype, shape: tuple[int, ...]) -> TensorSpec:
    stride = [1]
    for size in reversed(shape[1:]):
        stride.append(stride[-1] * max(size, 1))
    return TensorSpec(dtype, shape, tuple(reversed(stride)) if shape else ())
