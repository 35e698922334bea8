"""The listening policy: where a daemon may listen, and with which keys. Looks at addresses; opens nothing."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from dynamo_genie.errors import AuthenticationError, OptionError
from dynamo_genie.runtime.wire.limits import MAX_IPC_PATH_NBYTES

_TCP = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.%a-z0-9]+\]|[^\[\]:/\s]+):(?P<port>\*|\d{1,5})")


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port; `port` 0 stands for any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; names other than `localhost` are not trusted to say so."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def endpoint(self, port: int | None = None) -> str:
        """Return the ZeroMQ endpoint, with `port` in place of the own one where it is given."""
        number = self.port if port is None else port
        return f"tcp://{self.host}:{number or '*'}"


@dataclass(frozen=True)
class IpcAddress:
    """A socket file of this machine."""

    path: str

    @property
    def is_loopback(self) -> bool:
        return True

    def endpoint(self) -> str:
        """Return the ZeroMQ endpoint."""
        return f"ipc://{self.path}"


def parse_endpoint(endpoint: str) -> TcpAddress | IpcAddress:
    """Read a listening endpoint, or raise `OptionError` saying which forms there are."""
    if endpoint.startswith("ipc://"):
        return _parse_ipc(endpoint)
    found = _TCP.fullmatch(endpoint)
    if not found:
        raise OptionError(f"{endpoint!r} is no endpoint; write tcp://HOST:PORT (PORT may be *) or ipc:///PATH")
    port = 0 if found["port"] == "*" else int(found["port"])
    if port > 65_535:
        raise OptionError(f"{endpoint!r} names port {port}; ports end at 65535")
    return TcpAddress("0.0.0.0" if found["host"] == "*" else found["host"], port)


def _parse_ipc(endpoint: str) -> IpcAddress:
    path = endpoint.removeprefix("ipc://")
    if not path.startswith("/"):
        raise OptionError(f"{endpoint!r} must name an absolute path: ipc:///run/genie/daemon")
    if len(path.encode()) > MAX_IPC_PATH_NBYTES:
        raise OptionError(f"{endpoint!r} is {len(path.encode())} bytes; the kernel allows {MAX_IPC_PATH_NBYTES}")
    return IpcAddress(path)


def require_keys_off_loopback(address: TcpAddress | IpcAddress, *, has_keys: bool) -> None:
    """Refuse to serve other machines without keys: whoever reaches the port may use the accelerator."""
    if has_keys or address.is_loopback:
        return
    raise AuthenticationError(
        f"will not listen on {address.endpoint()} without keys, because other machines can reach it; "
        "make keys with `genie keygen DIR` and pass --keys DIR, or listen on tcp://127.0.0.1:PORT"
    )
