"""How many bytes a call will move, by tensor class, found by encoding the very messages it will send.

Nothing is sent, and no value is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dynamo_genie.explain.expected_call import ExpectedCall, ExpectedInput, LocalTensor, ReadBack, RemoteTensorInput
from dynamo_genie.explain.representative import inline_data
from dynamo_genie.observe import CallTraffic
from dynamo_genie.passes.plan import Cut
from dynamo_genie.runtime.bulk import CREDIT_EVERY
from dynamo_genie.runtime.command_stream import FLUSH_AT_COMMANDS, FLUSH_AT_NBYTES
from dynamo_genie.runtime.memory import TORCH_DTYPES
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, MAX_FETCH_INLINE_NBYTES, MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import Dtype, InlineTensor, TensorSpec

RNG_STATE_NBYTES = 5056
"""The state of PyTorch's CPU generator."""

A_TRANSFER = 200
"""Stands for the numbers of uploads and downloads, which count from 1 and take one to three bytes."""

_TENSOR_CLASS = {"weight": "weight", "buffer": "weight", "kv_cache": "kv_cache", "gradient": "gradient"}


def predict_call(call: ExpectedCall, cuts: Iterable[Cut] = (), step_s: float = math.nan) -> CallTraffic:
    """Return what a call will move; `cuts` are the values that go from daemon to daemon meanwhile."""
    stream = _Stream(call)
    stream.run()
    return CallTraffic(stream.sent, stream.received, traffic_between(cuts), step_s)


def traffic_between(cuts: Iterable[Cut]) -> Counter[str]:
    """Return the bytes that cross between daemons, by tensor class."""
    found: Counter[str] = Counter()
    for cut in cuts:
        found[_TENSOR_CLASS.get(cut.role, "activation")] += cut.nbytes
    return found


class _Stream:
    """Writes the messages of a call as `CompiledGraph` and `Session` would, and counts them as they do."""

    def __init__(self, call: ExpectedCall) -> None:
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self._call = call
        self._ids, self._requests = call.numbers.ids, call.numbers.requests
        self._batches = call.numbers.batches
        self._queue: list[m.Command] = []
        self._queued_nbytes = 0

    def run(self) -> None:
        call = self._call
        for nbytes in call.changed:
            self._patch(nbytes)
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
        if call.reads:
            self._fetch(call.reads, outputs)
        self._flush()

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

    def _patch(self, nbytes: int) -> None:
        """Count what sending a changed weight takes: piece by piece, each with a message that puts it in its place."""
        for offset in range(0, nbytes, CHUNK_NBYTES):
            self._upload(min(CHUNK_NBYTES, nbytes - offset), "weight")
            self._post(m.PatchWeight(self._call.binding, offset, A_TRANSFER))

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
            self._flush()

    def _flush(self) -> None:
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
        self._flush()
        self.received["control"] += len(codec.encode(message))

    def _fetch(self, reads: Sequence[ReadBack], outputs: Sequence[int]) -> None:
        self._post(m.Fetch(self._request(), (*outputs, *(self._ids,) * len(reads))[-len(reads) :]))
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
