"""Every message of the protocol, as typed records.

Three conversations share these types:

* client <-> supervisor, on the public endpoint: `ClientToSupervisor`, `SupervisorToClient`;
* client <-> worker, control socket: one `Attach`, then `Batch`es of commands; answered by `WorkerToClient`;
* client <-> worker and worker <-> worker, bulk socket: `bulk_messages`, which this module passes on, as it does
  `model_messages`.

The supervisor and its workers talk over an inherited socket with `SupervisorToWorker`, `WorkerToSupervisor`.
Handles, programs and bindings are integers minted by the client, unique in their session.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from dynamo_genie.runtime.wire.bulk_messages import *  # noqa: F403
from dynamo_genie.runtime.wire.bulk_messages import Attach as Attach
from dynamo_genie.runtime.wire.bulk_messages import Attached as Attached
from dynamo_genie.runtime.wire.bulk_messages import Detached as Detached
from dynamo_genie.runtime.wire.limits import MAX_DEVICES, MAX_ITEMS, MAX_LATE, MAX_SPANS, MAX_WAIT_S
from dynamo_genie.runtime.wire.model_messages import DescribeModel as DescribeModel
from dynamo_genie.runtime.wire.model_messages import ListModels as ListModels
from dynamo_genie.runtime.wire.model_messages import LoadWeights as LoadWeights
from dynamo_genie.runtime.wire.model_messages import ModelAnswer as ModelAnswer
from dynamo_genie.runtime.wire.model_messages import ModelCommand as ModelCommand
from dynamo_genie.runtime.wire.model_messages import ModelDescribed as ModelDescribed
from dynamo_genie.runtime.wire.model_messages import ModelsListed as ModelsListed
from dynamo_genie.runtime.wire.model_messages import ModelSummary as ModelSummary
from dynamo_genie.runtime.wire.model_messages import ModelTensor as ModelTensor
from dynamo_genie.runtime.wire.model_messages import WeightsLoaded as WeightsLoaded
from dynamo_genie.runtime.wire.record import Blob, Digest, Id, Ids, Kind, Message, Tally, Text, Token
from dynamo_genie.runtime.wire.record import ErrorInfo as ErrorInfo
from dynamo_genie.runtime.wire.tensor import Extent, InlineTensor, TensorSpec

# --- client <-> supervisor -------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a client. Its layout never changes, so that any two versions can refuse politely."""

    request_id: Id
    protocols: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]
    client: Text


class OpenDevice(Message, frozen=True):
    """A `Hello` for another device of a daemon than its first one; `device` counts from 0."""

    request_id: Id
    protocols: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]
    client: Text
    device: Annotated[int, msgspec.Meta(ge=0, le=MAX_DEVICES)]


class DeviceInfo(Message, frozen=True):
    """What a worker runs on: `kind` is "cpu" or "cuda"; `memory_limit` in bytes.

    `flops_per_s` (float32 matrix product) and `bytes_per_s` (memory read and written) were measured there; 0: unknown.
    """

    kind: Text
    name: Text
    memory_limit: Extent
    torch_version: Text
    flops_per_s: float = 0.0
    bytes_per_s: float = 0.0


class Welcome(Message, frozen=True):
    """Where the client's worker is, the token that opens a session there, and how many devices the daemon has.

    `worker_key` is the public key of the worker's sockets, which has a pair of its own; empty where there are no keys.
    """

    request_id: Id
    protocol: int
    session: Token
    token: Token
    control: Text
    bulk: Text
    device: DeviceInfo
    heartbeat_s: float
    lease_s: float
    devices: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEVICES)] = 1
    worker_key: Text = ""


class Refused(Message, frozen=True):
    """The supervisor says no; `code` is the name of a class in `dynamo_genie.errors`."""

    request_id: Id
    code: Text
    message: Text


class Heartbeat(Message, frozen=True):
    """Renews the lease of a session."""

    request_id: Id
    session: Token


class HeartbeatReply(Message, frozen=True):
    request_id: Id


class Goodbye(Message, frozen=True):
    """The client ends a session in good order."""

    session: Token


class SessionEnded(Message, frozen=True):
    """Pushed by the supervisor: this session is gone, and why; `code` as in `Refused`."""

    session: Token
    code: Text
    message: Text


class StatusRequest(Message, frozen=True):
    request_id: Id


class SessionStatus(Message, frozen=True):
    """One session: `resident_nbytes` of it lie in the device's memory, `spilled_nbytes` wait in the host's."""

    session: Text
    client: Text
    age_s: float
    calls: Extent
    handles: Extent
    resident_nbytes: Extent
    spilled_nbytes: Extent = 0


class EngineStatus(Message, frozen=True):
    """Programs of one worker that the same engine runs for the same reason, and how often they were called."""

    engine: Kind
    reason: Text
    programs: Extent
    calls: Extent


class WorkerStatus(Message, frozen=True):
    """One worker: `tenant` is "default" without keys, else the short form of the client's public key.

    `peer_sent` and `peer_received` are the bytes of tensors that went to and came from other workers, by class.
    """

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
    peer_sent: Tally = ()
    peer_received: Tally = ()
    engines: Annotated[tuple[EngineStatus, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()


class DaemonStatus(Message, frozen=True):
    endpoint: Text
    pid: Extent
    uptime_s: float
    protocol: int
    draining: bool
    workers: Annotated[tuple[WorkerStatus, ...], msgspec.Meta(max_length=4096)]


class StatusReply(Message, frozen=True):
    request_id: Id
    status: DaemonStatus


ClientToSupervisor: TypeAlias = Hello | OpenDevice | Heartbeat | Goodbye | StatusRequest
SupervisorToClient: TypeAlias = Welcome | Refused | HeartbeatReply | SessionEnded | StatusReply


# --- supervisor <-> worker -------------------------------------------------------------------------------


class AdmitSession(Message, frozen=True):
    """A client holding `token` may attach; `public_key` is its CURVE key (Z85), empty without keys."""

    session: Token
    token: Token
    client: Text
    public_key: Text


class DropSession(Message, frozen=True):
    session: Token
    reason: Text


class WorkerStatusRequest(Message, frozen=True):
    request_id: Id


class WorkerPing(Message, frozen=True):
    """Answered by `WorkerPong` at once, whatever runs."""


class WorkerPong(Message, frozen=True):
    """For how long the operator has been running that runs now, as far as it was seen, and what it is."""

    running_s: Annotated[float, msgspec.Meta(ge=0)]
    what: Text


class Drain(Message, frozen=True):
    """Finish the command in hand, then exit 0."""


class WorkerReady(Message, frozen=True):
    """The worker's sockets are bound."""

    control: Text
    bulk: Text
    device: DeviceInfo


class WorkerFailed(Message, frozen=True):
    """The worker cannot start (no such device, say); it exits after this."""

    code: Text
    message: Text


class WorkerEnding(Message, frozen=True):
    """A worker that served cannot go on and exits after this: why, for all of its sessions."""

    reason: Text


class WorkerStatusReport(Message, frozen=True):
    request_id: Id
    status: WorkerStatus


SupervisorToWorker: TypeAlias = AdmitSession | DropSession | WorkerStatusRequest | WorkerPing | Drain
WorkerToSupervisor: TypeAlias = WorkerReady | WorkerFailed | WorkerEnding | WorkerPong | WorkerStatusReport


# --- client -> worker, control ---------------------------------------------------------------------------


class RegisterProgram(Message, frozen=True, tag="P"):
    """Names a program by `program` from now on. `encoded` is empty when it was uploaded (`upload`).

    `engine` is a name in `dynamo_genie.engines.ENGINES`.
    """

    program: Id
    digest: Digest
    encoded: Blob
    upload: Id = 0
    engine: Kind = "auto"


class BindWeights(Message, frozen=True, tag="B"):
    """Fixes the inputs of `program` at `positions`: calls through `binding` leave them out."""

    binding: Id
    program: Id
    positions: Ids
    handles: Ids


CallInput: TypeAlias = bool | int | float | InlineTensor
"""What a call passes for an input that is not bound: a handle or inline data where the program says tensor,
a number where it says scalar."""


class Call(Message, frozen=True, tag="C"):
    """Runs a program. Output i becomes handle `outputs[i]`; 0 drops it.

    `rng` is the state of the client's CPU generator where the program draws random numbers; the state after
    the call answers `request_id`. Elsewhere nothing is answered where `request_id` is 0, and `Done` where it is not.
    """

    program: Id
    binding: Id
    inputs: Annotated[tuple[CallInput, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    outputs: Ids
    request_id: Id = 0
    rng: Annotated[bytes, msgspec.Meta(max_length=16_384)] = b""


class Free(Message, frozen=True, tag="F"):
    handles: Ids


class Put(Message, frozen=True, tag="I"):
    """Makes `handle` from inline data."""

    handle: Id
    tensor: InlineTensor


class PutUploaded(Message, frozen=True, tag="U"):
    """Makes `handle` from a finished upload of this session."""

    handle: Id
    spec: TensorSpec
    upload: Id


class QueryWeights(Message, frozen=True, tag="Q"):
    """Which of these contents does the worker lack? Answered by `WeightsMissing`."""

    request_id: Id
    digests: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class StoreWeight(Message, frozen=True, tag="W"):
    """Verifies a finished upload against its digest and keeps it as a resident weight."""

    digest: Digest
    spec: TensorSpec
    upload: Id


class AdoptWeight(Message, frozen=True, tag="A"):
    """Makes `handle` name the resident weight with this content; `viewed` where the session has it nowhere else.

    What is viewed is a tensor like any other: it may be written, and what shows its memory is written with it.
    """

    handle: Id
    digest: Digest
    spec: TensorSpec
    viewed: bool = False


class PatchWeight(Message, frozen=True, tag="X"):
    """Overwrites bytes of a weight from a finished upload; a content shared with others is copied first."""

    handle: Id
    offset: Extent
    upload: Id


class Fetch(Message, frozen=True, tag="G"):
    """Asks for the bytes of some handles, answered by `Fetched`; those above the inline limit come by bulk."""

    request_id: Id
    handles: Ids


class Describe(Message, frozen=True, tag="D"):
    """Asks for dtype, shape and strides of some handles, answered by `Described`."""

    request_id: Id
    handles: Ids


class Sync(Message, frozen=True, tag="S"):
    """Answered by `Done` when everything before it has run.

    Attributes:
        timed: Whether to wait for what was launched on the device as well, and to say when that was.
    """

    request_id: Id
    timed: bool = False


class Save(Message, frozen=True, tag="H"):
    """Asks for what some handles name, to be made from that again; answered by `Saved`.

    A tensor beyond `largest` bytes does not come.
    """

    request_id: Id
    handles: Ids
    largest: Extent


class SendTensor(Message, frozen=True, tag="N"):
    """Sends a tensor through an open link, under a number that the client minted for the receiving session."""

    handle: Id
    link: Id
    transfer: Id
    kind: Kind


class ReceiveTensor(Message, frozen=True, tag="R"):
    """Makes `handle` from a tensor that a link brings. Until it is there, or `timeout_s` is over, the stream waits."""

    handle: Id
    link: Id
    transfer: Id
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_S)]


class Inspect(Message, frozen=True, tag="V"):
    """Asks what the session did and what memory there is, and what runs its programs where `engines` is set.

    Answered by `Inspection`.
    """

    request_id: Id
    engines: bool = False


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
    | Save
    | SendTensor
    | ReceiveTensor
    | Inspect
    | ModelCommand
)


class Batch(Message, frozen=True, tag="b"):
    """Commands in order. `sequence` counts batches from 1; one that was seen before is not run again.

    Answers to the batches up to `heard` have come, and need not be remembered any longer.
    """

    sequence: Id
    commands: Annotated[tuple[Command, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    heard: Id = 0


ClientToWorker: TypeAlias = Attach | Batch


# --- worker -> client, control ---------------------------------------------------------------------------


class Acknowledged(Message, frozen=True, tag="k"):
    """Answers nothing: the batches up to this one have run. Comes now and then where no answer says so."""

    sequence: Id
    request_id: Id = 0


class Done(Message, frozen=True, tag="d"):
    """Answers `Sync`.

    Attributes:
        at_ns: What the worker's clock said, if that was asked, in nanoseconds since some moment.
    """

    request_id: Id
    at_ns: Id = 0


class RngAdvanced(Message, frozen=True, tag="r"):
    request_id: Id
    rng: Annotated[bytes, msgspec.Meta(max_length=16_384)]


class WeightsMissing(Message, frozen=True, tag="m"):
    """Positions, in the query, of the contents that must be uploaded."""

    request_id: Id
    missing: Ids


class FetchedTensor(Message, frozen=True, tag="t"):
    """One fetched tensor: its bytes, or the number of the download that brings them."""

    spec: TensorSpec
    data: Blob
    download: Id = 0


class Fetched(Message, frozen=True, tag="f"):
    """What was asked for, in order: each tensor, or the error of the command that should have made it."""

    request_id: Id
    tensors: Annotated[tuple[FetchedTensor | ErrorInfo, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class Saved(Message, frozen=True, tag="h"):
    """What was asked for, in order: each tensor, dense and alone in its memory; one too large is described only.

    None stands for what is not dense, not alone in its memory, or not there.
    """

    request_id: Id
    tensors: Annotated[tuple[FetchedTensor | None, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class Described(Message, frozen=True, tag="e"):
    request_id: Id
    specs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class Inspection(Message, frozen=True, tag="i"):
    """The worker's memory, and what this session did.

    Args:
        memory_limit, memory_used: Bytes of the worker, all sessions together.
        memory_reclaimable: The part of `memory_used` that would make room: weights that no session uses.
        peer_sent, peer_received: Bytes of tensors that this session sent to and got from other workers, by class.
        counts: What the worker counted, by name.
        spans: (program, started, ended) of this session's last calls since it was last asked, in ns since 1970.
        engines: (program, engine, reason) of this session's programs, if asked for: what runs each now, and why.
    """

    request_id: Id
    memory_limit: Extent
    memory_used: Extent
    memory_reclaimable: Extent
    peer_sent: Tally
    peer_received: Tally
    counts: Tally
    spans: Annotated[tuple[tuple[Id, Extent, Extent], ...], msgspec.Meta(max_length=MAX_SPANS)]
    engines: Annotated[tuple[tuple[Id, Kind, Text], ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()


class EngineFellBack(Message, frozen=True, tag="n"):
    """Answers nothing: says once that a program runs eager, though another engine was wanted, and why."""

    program: Id
    reason: Text
    request_id: Id = 0


class Failed(Message, frozen=True, tag="x"):
    """Answers a request with its own error, or with that of a command that should have made what it names.

    `rng` is the state of the generator where a call has drawn random numbers before it failed.
    """

    request_id: Id
    error: ErrorInfo
    rng: Annotated[bytes, msgspec.Meta(max_length=16_384)] = b""


class LateFailures(Message, frozen=True, tag="l"):
    """Answers nothing: comes before an answer, with what failed since the last one and has no answer of its own.

    `omitted` counts the failures beyond the first `MAX_LATE`.
    """

    errors: Annotated[tuple[ErrorInfo, ...], msgspec.Meta(max_length=MAX_LATE)]
    omitted: Extent = 0
    request_id: Id = 0


WorkerToClient: TypeAlias = (
    Attached
    | Detached
    | Acknowledged
    | Done
    | RngAdvanced
    | WeightsMissing
    | Fetched
    | Saved
    | Described
    | Inspection
    | EngineFellBack
    | Failed
    | LateFailures
    | ModelAnswer
)
