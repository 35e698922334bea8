"""What travels on bulk sockets: uploads, downloads, and the links by which workers send each other tensors.

A worker's bulk socket serves two kinds of connection, and each may say its own messages only:

* a client's: opened by `Attach`; `ClientToBulk`, `BulkToClient`;
* another worker's, a *link*: opened by `AttachPeer` with a token that the client gave to both workers; `PeerToBulk`,
  `BulkToPeer`.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from dynamo_genie.runtime.wire.key_file import Z85Key
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.record import Blob, ErrorInfo, Id, Kind, Message, Text, Token
from dynamo_genie.runtime.wire.tensor import Extent, TensorSpec


class Attach(Message, frozen=True):
    """Opens the session on this connection, control or bulk."""

    request_id: Id
    session: Token
    token: Token


class Attached(Message, frozen=True):
    """Answers `Attach`: what is said on this connection belongs to the session.

    On a control connection `sequence` is the last batch of the session that has come; later ones are to be sent again.
    """

    request_id: Id
    sequence: Id = 0


class Detached(Message, frozen=True, tag="u"):
    """Answers nothing: something that was sent did not get here, or this connection belongs to no session (any more).

    Attach again, on a new connection; nothing that has come is lost.
    """

    request_id: Id = 0


# --- chunks, in every direction --------------------------------------------------------------------------


class Chunk(Message, frozen=True, tag="C"):
    """Header of one raw frame, which follows: bytes `offset...` of a transfer."""

    transfer: Id
    offset: Extent


class Credit(Message, frozen=True, tag="K"):
    """The receiver can take `chunks` more chunks."""

    chunks: Id


class BulkFailed(Message, frozen=True, tag="x"):
    """The transfer cannot go on; `code` names a class in `dynamo_genie.errors`."""

    transfer: Id
    code: Text
    message: Text


# --- client <-> worker: uploads --------------------------------------------------------------------------


class UploadBegin(Message, frozen=True, tag="B"):
    """Announces `nbytes` bytes under a number minted by the client."""

    upload: Id
    nbytes: Extent


class UploadAbort(Message, frozen=True, tag="A"):
    upload: Id


class UploadDone(Message, frozen=True, tag="D"):
    """Every byte of the upload has arrived."""

    upload: Id


class Cancel(Message, frozen=True, tag="Z"):
    """Nobody waits any more for what the calls in the batches up to `sequence` make.

    Those that write to no input fail with `ProgramCancelled`, between two operators where one runs already.
    """

    sequence: Id


# --- client <-> worker: links ----------------------------------------------------------------------------


class PeerKeys(Message, frozen=True):
    """What proves one link: the receiver's public key, and a fresh pair that is used for nothing else."""

    server_public: Z85Key
    public: Z85Key
    secret: Z85Key

    def __repr__(self) -> str:
        return f"PeerKeys(server_public={self.server_public!r}, public={self.public!r}, secret=...)"


class AdmitPeer(Message, frozen=True):
    """To the receiver: whoever shows `token` (and proves `public_key`, where there are keys) may send tensors.

    Answered by `Attached`; only then the sender may be told. `sender` and `endpoint` name both ends for people: they
    come back in errors.
    """

    request_id: Id
    link: Id
    token: Token
    public_key: Annotated[str, msgspec.Meta(max_length=40)]
    sender: Text
    endpoint: Text


class DismissPeer(Message, frozen=True):
    """To the receiver: nothing more comes through this link, and why; whoever waits for it waits in vain."""

    link: Id
    reason: Text


class OpenPeer(Message, frozen=True):
    """To the sender: connect to another worker's bulk endpoint. `keys` is None where that worker has none."""

    link: Id
    endpoint: Text
    token: Token
    keys: PeerKeys | None


class ClosePeer(Message, frozen=True):
    """To the sender: the link is not needed any more."""

    link: Id


class MeasurePeer(Message, frozen=True):
    """To the sender: how fast is this link? Answered by `PeerMeasured`."""

    request_id: Id
    link: Id


class PeerMeasured(Message, frozen=True):
    """One way latency and throughput of a link; `problem` says why there is none."""

    request_id: Id
    latency_s: float
    bytes_per_s: float
    problem: Text = ""


# --- worker <-> worker -----------------------------------------------------------------------------------


class AttachPeer(Message, frozen=True):
    """Opens a link; `protocol` is the version that the sender speaks on it."""

    request_id: Id
    token: Token
    protocol: int


class TensorBegin(Message, frozen=True, tag="T"):
    """Announces a tensor under a number that the client minted for the receiving session.

    A small one is all here, in `data`; the bytes of a larger one follow as chunks. Costs one credit.
    """

    transfer: Id
    spec: TensorSpec
    kind: Kind
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_INLINE_NBYTES)] = b""


class TensorFailed(Message, frozen=True, tag="F"):
    """The tensor will not come, and why; its handle fails with this error wherever it is used."""

    transfer: Id
    error: ErrorInfo


class PeerPing(Message, frozen=True, tag="I"):
    """Answered by `PeerPong` with the same number; `padding` measures throughput."""

    number: Id
    padding: Blob = b""


class PeerPong(Message, frozen=True, tag="O"):
    number: Id


ClientToBulk: TypeAlias = (
    Attach
    | UploadBegin
    | Chunk
    | UploadAbort
    | Credit
    | Cancel
    | AdmitPeer
    | DismissPeer
    | OpenPeer
    | ClosePeer
    | MeasurePeer
)
BulkToClient: TypeAlias = Attached | Detached | Chunk | Credit | UploadDone | BulkFailed | PeerMeasured
PeerToBulk: TypeAlias = AttachPeer | TensorBegin | Chunk | TensorFailed | PeerPing
BulkToPeer: TypeAlias = Attached | Detached | Credit | PeerPong | BulkFailed
