"""What every message is made of: the base of the records, bounded numbers, texts and blobs, and the error record."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES, MAX_ITEMS, MAX_KIND, MAX_STRING
from dynamo_genie.runtime.wire.tensor import Extent

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_STRING)]
LongText: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_CONTROL_NBYTES)]
Token: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=32)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=32)]
Ids: TypeAlias = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_ITEMS)]
Blob: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=MAX_CONTROL_NBYTES)]
Kind: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_KIND)]
"""The class of tensor under which bytes are counted: activation, kv_cache, ..."""

Tally: TypeAlias = Annotated[tuple[tuple[Kind, Extent], ...], msgspec.Meta(max_length=4096)]
"""Named counts, each name once."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base: a msgpack array whose first element is the class name."""


class ErrorInfo(Message, frozen=True, tag="E"):
    """What went wrong while running a command.

    `kind` is the class that eager PyTorch raises (or one of ours), `program` and `node` say where in which
    program (-1: none), `operator` names the operator, `traceback` is the daemon's.

    `number` counts the failures of a session from 1, `call` the calls of it up to the one that failed, or for which
    what failed was sent; 0 where that means nothing. `route` are the links through which the error came from the
    session in which all of this counts, the last one first; empty for the session itself.
    """

    kind: Text
    message: LongText
    operator: Text
    program: int
    node: int
    traceback: LongText
    number: Id = 0
    call: Id = 0
    route: Ids = ()


BRIEF = 200
"""Characters of a message that is repeated."""


def brief(error: ErrorInfo) -> ErrorInfo:
    """Return an error as it stands where it, or enough others, are told whole elsewhere."""
    return msgspec.structs.replace(error, message=error.message[:BRIEF], traceback="")
