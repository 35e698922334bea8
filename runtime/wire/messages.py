"""Every message of the protocol, as typed records.

Three conversations share these types:

* client <-> supervisor, on the public endpoint: `ClientToSupervisor`, `SupervisorToClient`;
* client <-> worker, control socket: one `Attach`, then `Batch`es of commands; answered by `WorkerToClient`;
* client <-> worker, bulk socket: `ClientToBulk`, `BulkToClient`; a `Chunk` is followed by one raw frame.

The supervisor and its workers talk over an inherited socket with `SupervisorToWorker`, `WorkerToSupervisor`.
Handles, programs and bindings are integers minted by the client, unique in their session.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES, MAX_ITEMS, MAX_STRING
from dynamo_genie.runtime.wire.tensor import Extent, InlineTensor, TensorSpec

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_STRING)]
LongText: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_CONTROL_NBYTES)]
Token: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=32)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=32)]
Ids: TypeAlias = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_ITEMS)]
Blob: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=MAX_CONTROL_NBYTES)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base: a msgpack array whose first element is the class name."""


# --- client <-> supervisor -------------------------------------------------------------------------------


class Hello(_Message, frozen=True):
    """First message of a client. Its layout never changes, so that any two versions can refuse politely."""

    request_id: Id
    protocols: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]
    client: Text


class DeviceInfo(_Message, frozen=True):
    """What a worker runs on: `kind` is "cpu" or "cuda"; `memory_limit` in bytes."""

    kind: Text
    name: Text
    memory_limit: Extent
    torch_version: Text


class Welcome(_Message, frozen=True):
    """Where the client's worker is, and the token that opens a session there."""

    request_id: Id
    protocol: int
    session: Token
    token: Token
    control: Text
    bulk: Text
    device: DeviceInfo
    heartbeat_s: float
    lease_s: float


class Refused(_Message, frozen=True):
    """The supervisor says no; `code` is the name of a class in `dynamo_genie.errors`."""

    request_id: Id
    code: Text
    message: Text


class Heartbeat(_Message, frozen=True):
    """Renews the lease of a session."""

    request_id: Id
    session: Token


class HeartbeatReply(_Message, frozen=True):
    request_id: Id


class Goodbye(_Message, frozen=True):
    """The client ends a session in good order."""

    session: Token


class SessionEnded(_Message, frozen=True):
    """Pushed by the supervisor: this session is gone, and why; `code` as in `Refused`."""

    session: Token
    code: Text
    message: Text


class StatusRequest(_Message, frozen=True):
    request_id: Id


class SessionStatus(_Message, frozen=True):
    session: Text
    client: Text
    age_s: float
    calls: Extent
    handles: Extent
    resident_nbytes: Extent


class WorkerStatus(_Message, frozen=True):
    """One worker: `tenant` is "default" without keys, else the short form of the client's public key."""

    tenant: Text
    pid: Extent
    state: Text
    device: Text
    memory_limit: Extent
    resident_nbytes: Extent
    weight_nbytes: Extent
    programs: Extent
    calls: Extent
    sessions: Annotated[tuple[SessionStatus, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class DaemonStatus(_Message, frozen=True):
    endpoint: Text
    pid: Extent
    uptime_s: float
    protocol: int
    draining: bool
    workers: Annotated[tuple[WorkerStatus, ...], msgspec.Meta(max_length=4096)]


class StatusReply(_Message, frozen=True):
    request_id: Id
    status: DaemonStatus


ClientToSupervisor: TypeAlias = Hello | Heartbeat | Goodbye | StatusRequest
SupervisorToClient: TypeAlias = Welcome | Refused | HeartbeatReply | SessionEnded | StatusReply


# --- supervisor <-> worker -------------------------------------------------------------------------------


class AdmitSession(_Message, frozen=True):
    """A client holding `token` may attach; `public_key` is its CURVE key (Z85), empty without keys."""

    session: Token
    token: Token
    client: Text
    public_key: Text


class DropSession(_Message, frozen=True):
    session: Token
    reason: Text


class WorkerStatusRequest(_Message, frozen=True):
    request_id: Id


class Drain(_Message, frozen=True):
    """Finish the command in hand, then exit 0."""


class WorkerReady(_Message, frozen=True):
    """The worker's sockets are bound."""

    control: Text
    bulk: Text
    device: DeviceInfo


class WorkerFailed(_Message, frozen=True):
    """The worker cannot start (no such device, say); it exits after this."""

    code: Text
    message: Text


class WorkerStatusReport(_Message, frozen=True):
    request_id: Id
    status: WorkerStatus


SupervisorToWorker: TypeAlias = AdmitSession | DropSession | WorkerStatusRequest | Drain
WorkerToSupervisor: TypeAlias = WorkerReady | WorkerFailed | WorkerStatusReport


# --- client -> worker, control ---------------------------------------------------------------------------


class Attach(_Message, frozen=True):
    """Opens the session on this connection; the same message opens the bulk connection."""

    request_id: Id
    session: Token
    token: Token


class RegisterProgram(_Message, frozen=True, tag="P"):
    """Names a program by `program` from now on. `encoded` is empty when it was uploaded (`upload`)."""

    program: Id
    digest: Digest
    encoded: Blob
    upload: Id = 0


class BindWeights(_Message, frozen=True, tag="B"):
    """Fixes the inputs of `program` at `positions`: calls through `binding` leave them out."""

    binding: Id
    program: Id
    positions: Ids
    handles: Ids


CallInput: TypeAlias = bool | int | float | InlineTensor
"""What a call passes for an input that is not bound: a handle or inline data where the program says tensor,
a number where it says scalar."""


class Call(_Message, frozen=True, tag="C"):
    """Runs a program. Output i becomes handle `outputs[i]`; 0 drops it.

    `rng` is the state of the client's CPU generator where the program draws random numbers; the state after
    the call answers `request_id`. Elsewhere `request_id` is 0 and nothing is answered.
    """

    program: Id
    binding: Id
    inputs: Annotated[tuple[CallInput, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    outputs: Ids
    request_id: Id = 0
    rng: Annotated[bytes, msgspec.Meta(max_length=16_384)] = b""


class Free(_Message, frozen=True, tag="F"):
    handles: Ids


class Put(_Message, frozen=True, tag="I"):
    """Makes `handle` from inline data."""

    handle: Id
    tensor: InlineTensor


class PutUploaded(_Message, frozen=True, tag="U"):
    """Makes `handle` from a finished upload of this session."""

    handle: Id
    spec: TensorSpec
    upload: Id


class QueryWeights(_Message, frozen=True, tag="Q"):
    """Which of these contents does the worker lack? Answered by `WeightsMissing`."""

    request_id: Id
    digests: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class StoreWeight(_Message, frozen=True, tag="W"):
    """Verifies a finished upload against its digest and keeps it as a resident weight."""

    digest: Digest
    spec: TensorSpec
    upload: Id


class AdoptWeight(_Message, frozen=True, tag="A"):
    """Makes `handle` name the resident weight with this content."""

    handle: Id
    digest: Digest
    spec: TensorSpec


class PatchWeight(_Message, frozen=True, tag="X"):
    """Overwrites bytes of a weight from a finished upload; a content shared with others is copied first."""

    handle: Id
    offset: Extent
    upload: Id


class Fetch(_Message, frozen=True, tag="G"):
    """Asks for the bytes of some handles, answered by `Fetched`; those above the inline limit come by bulk."""

    request_id: Id
    handles: Ids


class Describe(_Message, frozen=True, tag="D"):
    """Asks for dtype, shape and strides of some handles, answered by `Described`."""

    request_id: Id
    handles: Ids


class Sync(_Message, frozen=True, tag="S"):
    """Answered by `Done` when everything before it has run; carries the latched error, if any."""

    request_id: Id


Command: TypeAlias = (
    RegisterProgram
    | BindWeights
    | Call
    | Free
    | Put
    | PutUploaded
    | QueryWeights
    | StoreWeight
    | AdoptWeight
    | PatchWeight
    | Fetch
    | Describe
    | Sync
)


class Batch(_Message, frozen=True, tag="b"):
    """Commands in order. `sequence` counts batches from 1; one that was seen before is not run again."""

    sequence: Id
    commands: Annotated[tuple[Command, ...], msgspec.Meta(max_length=MAX_ITEMS)]


ClientToWorker: TypeAlias = Attach | Batch


# --- worker -> client, control ---------------------------------------------------------------------------


class Attached(_Message, frozen=True):
    request_id: Id


class Done(_Message, frozen=True, tag="d"):
    request_id: Id


class RngAdvanced(_Message, frozen=True, tag="r"):
    request_id: Id
    rng: Annotated[bytes, msgspec.Meta(max_length=16_384)]


class WeightsMissing(_Message, frozen=True, tag="m"):
    """Positions, in the query, of the contents that must be uploaded."""

    request_id: Id
    missing: Ids


class FetchedTensor(_Message, frozen=True, tag="t"):
    """One fetched tensor: its bytes, or the number of the download that brings them."""

    spec: TensorSpec
    data: Blob
    download: Id = 0


class Fetched(_Message, frozen=True, tag="f"):
    request_id: Id
    tensors: Annotated[tuple[FetchedTensor, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class Described(_Message, frozen=True, tag="e"):
    request_id: Id
    specs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class ErrorInfo(_Message, frozen=True, tag="E"):
    """What went wrong while running a command.

    `kind` is the class that eager PyTorch raises (or one of ours), `program` and `node` say where in which
    program (-1: none), `operator` names the operator, `traceback` is the daemon's.
    """

    kind: Text
    message: LongText
    operator: Text
    program: int
    node: int
    traceback: LongText


class Failed(_Message, frozen=True, tag="x"):
    """Answers a request with the session's first error since the last answer."""

    request_id: Id
    error: ErrorInfo


WorkerToClient: TypeAlias = Attached | Done | RngAdvanced | WeightsMissing | Fetched | Described | Failed


# --- bulk ------------------------------------------------------------------------------------------------


class UploadBegin(_Message, frozen=True, tag="B"):
    """Announces `nbytes` bytes under a number minted by the client."""

    upload: Id
    nbytes: Extent


class Chunk(_Message, frozen=True, tag="C"):
    """Header of one raw frame, which follows: bytes `offset...` of a transfer."""

    transfer: Id
    offset: Extent


class UploadAbort(_Message, frozen=True, tag="A"):
    upload: Id


class Credit(_Message, frozen=True, tag="K"):
    """The receiver can take `chunks` more chunks."""

    chunks: Id


class UploadDone(_Message, frozen=True, tag="D"):
    """Every byte of the upload has arrived."""

    upload: Id


class BulkFailed(_Message, frozen=True, tag="x"):
    """The transfer cannot go on; `code` names a class in `dynamo_genie.errors`."""

    transfer: Id
    code: Text
    message: Text


ClientToBulk: TypeAlias = Attach | UploadBegin | Chunk | UploadAbort | Credit
BulkToClient: TypeAlias = Attached | Chunk | Credit | UploadDone | BulkFailed
