"""The configuration that a worker starts with: whom it serves, on which device, where to listen."""

from __future__ import annotations

import msgspec

from dynamo_genie.runtime.wire.key_file import ServerKeyPair


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """The first message in the pipe. `keys` and `client_public_key` are empty where there are no keys.

    `keys` were made for this worker alone: the daemon's own stay with the supervisor.
    `device` is "auto", "cpu" or "cuda:N", one of `devices` that share a machine; limits are in bytes, 0 lets the
    worker choose. `listen` is `tcp://HOST:*`, on `ports` from a first to a last one, or on any where that is None; or
    a directory for ipc endpoints. `note_fd` is where to note what runs (`ProgramNote`); programs whose digests are
    `quarantined` are refused. `session_share` is the part of the memory that one session may have.
    `weight_cache` is the directory for weights that outlive the worker, empty for none, `weight_cache_limit` its size.
    `models` are the directories with models, and `model_indexes` the folders with an index of each.
    """

    tenant: str
    device: str
    devices: int
    memory_limit: int
    host_memory_limit: int
    listen: str
    ports: tuple[int, int] | None
    keys: ServerKeyPair | None
    client_public_key: str
    supervisor_pid: int
    note_fd: int = -1
    quarantined: tuple[bytes, ...] = ()
    session_share: float = 1.0
    weight_cache: str = ""
    weight_cache_limit: int = 0
    models: tuple[str, ...] = ()
    model_indexes: tuple[str, ...] = ()

    def bind_arguments(self, name: str) -> tuple[str, tuple[int, int] | None]:
        """Return `endpoint` and `ports` of `bind_router` for the socket called `name`: `c` control, `b` bulk."""
        return (f"{self.listen}{name}" if self.listen.startswith("ipc://") else self.listen), self.ports
