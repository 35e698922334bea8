"""What is known of a call before it is made: enough to say which bytes it will move. Sizes and kinds, no values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from dynamo_genie.runtime.wire.tensor import Dtype


class Content(Enum):
    """What the elements of an integer tensor look like; it decides how well they pack."""

    TOKENS = "tokens"  # spread over a vocabulary
    COUNTING = "counting"  # 0, 1, 2, ...
    CONSTANT = "constant"  # all alike: masks, segment ids


@dataclass(frozen=True)
class LocalTensor:
    """An input that the client has and the daemon needs.

    Attributes:
        kind: Its tensor class, for the counters.
        written: Whether the program writes into it, so that it gets a handle and comes back.
        bound: Where `content` is TOKENS, what the ids are below.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    kind: str
    written: bool = False
    content: Content = Content.CONSTANT
    bound: int = 2


@dataclass(frozen=True)
class RemoteTensorInput:
    """An input that is in the daemon already: its handle's number travels."""

    handle: int


ExpectedInput: TypeAlias = LocalTensor | RemoteTensorInput | bool | int | float


@dataclass(frozen=True)
class ReadBack:
    """A value that comes back with the call: what the program wrote into a local input, or a gradient."""

    dtype: Dtype
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class SessionNumbers:
    """How far a session has counted; small numbers take fewer bytes than large ones."""

    ids: int
    requests: int
    batches: int
    transfers: int = 1


@dataclass(frozen=True)
class ExpectedCall:
    """One call of one program.

    Attributes:
        n_outputs: Results that get a handle.
        n_dropped: Results that get none, and travel as 0.
        reads: What is fetched before the call returns.
        draws: Whether the state of the random generator goes along and comes back.
        describes: Results whose shapes must be asked for; by rank.
        changed: Sizes of the resident weights that the program has changed since the last call.
    """

    program: int
    binding: int
    numbers: SessionNumbers
    inputs: tuple[ExpectedInput, ...]
    n_outputs: int
    n_dropped: int = 0
    reads: tuple[ReadBack, ...] = ()
    draws: bool = False
    describes: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()


@dataclass(frozen=True)
class ExpectedPart:
    """The call of one partition; `moves` has device and tensor class of each value that it needs from elsewhere."""

    device: str
    call: ExpectedCall
    moves: tuple[tuple[str, str], ...] = ()
