"""The configuration that a worker starts with: whom it serves, on which device, where to listen."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from dynamo_genie.runtime.wire.key_file import ServerKeyPair


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base: a msgpack map with the class name in it."""


class TcpBind(_Config, frozen=True):
    """Listen on `host`, on free ports from `first_port` to `last_port` (0, 0: any)."""

    host: str
    first_port: int = 0
    last_port: int = 0

    @property
    def endpoint(self) -> str:
        """Return what to pass to `bind_router`, for each of the worker's sockets."""
        return f"tcp://{self.host}:*"

    @property
    def ports(self) -> tuple[int, int] | None:
        """Return the allowed ports, or None for any."""
        return (self.first_port, self.last_port) if self.last_port else None


class IpcBind(_Config, frozen=True):
    """Listen on socket files whose names start with `prefix`, a whole path."""

    prefix: str

    def endpoint(self, name: str) -> str:
        """Return what to pass to `bind_router` for the socket called `name`: `c` control, `b` bulk."""
        return f"ipc://{self.prefix}{name}"


BindPolicy: TypeAlias = TcpBind | IpcBind


class WorkerConfig(_Config, frozen=True):
    """The first message in the pipe. `keys` and `client_public_key` are empty where there are no keys.

    `device` is "auto", "cpu" or "cuda:N", one of `devices` that share a machine; limits are in bytes, 0 lets the
    worker choose.
    """

    tenant: str
    device: str
    devices: int
    memory_limit: int
    host_memory_limit: int
    bind: BindPolicy
    keys: ServerKeyPair | None
    client_public_key: str
    supervisor_pid: int

    def bind_arguments(self, name: str) -> tuple[str, tuple[int, int] | None]:
        """Return `endpoint` and `ports` of `bind_router` for the socket called `name`: `c` or `b`."""
        if isinstance(self.bind, TcpBind):
            return self.bind.endpoint, self.bind.ports
        return self.bind.endpoint(name), None
