"""The events and actions of a supervisor: the vocabulary of `state_machine`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NewType, TypeAlias

from dynamo_genie.runtime.wire import messages as m

WorkerId = NewType("WorkerId", int)


@dataclass(frozen=True)
class ClientSaid:
    """A message on the public endpoint. `tenant` is the proven key, empty without keys."""

    peer: bytes
    tenant: str
    message: m.ClientToSupervisor


@dataclass(frozen=True)
class WorkerStarted:
    """A process was started; `public_key` is that of the pair made for it, empty where there are no keys."""

    worker: WorkerId
    pid: int
    public_key: str = ""


@dataclass(frozen=True)
class WorkerSaid:
    worker: WorkerId
    message: m.WorkerToSupervisor


@dataclass(frozen=True)
class WorkerExited:
    """The process is gone; `how` is for people.

    `program` is the program that it ran last, by digest, empty if there was none; `running` says whether it still did;
    `from_outside` that somebody else's signal ended it, which says nothing of worker and program.
    """

    worker: WorkerId
    how: str
    program: bytes = b""
    running: bool = False
    from_outside: bool = False


@dataclass(frozen=True)
class KeysListed:
    """These keys are admitted now; who has another one is admitted no more."""

    keys: Collection[str]


@dataclass(frozen=True)
class DrainRequested:
    """Stop in good order; a second one stops at once."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = ClientSaid | WorkerStarted | WorkerSaid | WorkerExited | KeysListed | DrainRequested | Tick


@dataclass(frozen=True)
class TellClient:
    peer: bytes
    message: m.SupervisorToClient


@dataclass(frozen=True)
class TellWorker:
    worker: WorkerId
    message: m.SupervisorToWorker


@dataclass(frozen=True)
class StartWorker:
    worker: WorkerId
    tenant: str
    device: int
    quarantined: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class KillWorker:
    """Kill a worker; `why` is for the log."""

    worker: WorkerId
    why: str = field(default="", compare=False)


@dataclass(frozen=True)
class AnnounceReady:
    """Print the `ready` line: from now on clients can be served."""


@dataclass(frozen=True)
class Exit:
    """Leave with `code`; `message` says why if it is not 0."""

    code: int
    message: str


Action: TypeAlias = TellClient | TellWorker | StartWorker | KillWorker | AnnounceReady | Exit
