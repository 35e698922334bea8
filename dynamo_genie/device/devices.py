"""Which daemon is `remote_accelerator:N`: the N-th of the fleet that `connect` or the environment names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.device_name import NAME
from dynamo_genie.options import ALL_DEVICES, Options, resolve_options
from dynamo_genie.runtime.session.session import Session


class Devices:
    """The devices of this process. Nothing is connected before one is used."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._connections: dict[int, Connection] = {}
        self._places: WeakKeyDictionary[Session, torch.device] = WeakKeyDictionary()
        self._fleet: Options | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.current = 0

    def use(self, options: Options) -> None:
        """Let the devices be the daemons of these options, unless some are in use already; those stay."""
        with self._lock:
            if not any(connection.alive for connection in self._connections.values()):
                self._connections.clear()
                self._fleet = options
        self.on_change()

    @property
    def count(self) -> int:
        """How many there are; one where no daemon is named, for an embedded one is started then."""
        options = self._options()
        if any(daemon.endswith(ALL_DEVICES) for daemon in options.daemons):
            return len(CONNECTIONS.fleet(options).connections)
        return max(1, len(options.daemons))

    def index(self, device: torch.device | str | int | None) -> int:
        """Return the index that is meant; without one the current device is.

        Raises:
            ValueError: It is no device of this kind.
            RuntimeError: There is no device of this index.
        """
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device):
            if device.type != NAME:
                raise ValueError(f"expected a device of the type {NAME}, got {device}")
            device = device.index
        index = self.current if device is None else int(device)
        if index not in self._connections and not 0 <= index < self.count:
            raise RuntimeError(
                f"there is no {NAME}:{index}: this process has {self.count}. Name more daemons in GENIE_DAEMONS or "
                "with dynamo_genie.connect(daemons=[...]), before the device is first used"
            )
        return index

    def session(self, index: int) -> Session:
        """Return the session on a device, opening one where there is none.

        Raises:
            DaemonUnavailable: The daemon does not answer.
        """
        known = self._connections.get(index)
        if known is not None and known.alive:
            return known.session
        with self._lock:
            self._fleet = self._options()  # whatever the environment says later
            connection = self._open(index)
            self._connections[index] = connection
            self._places[connection.session] = torch.device(NAME, index)
            return connection.session

    @property
    def immediate(self) -> bool:
        """Whether each operator is to be waited for, and raise its own error."""
        return self._fleet is not None and self._fleet.immediate

    def synchronize(self, index: int) -> None:
        """Wait until a device has run everything so far, and raise the first error that nobody was told of."""
        session = self.session(index)
        with session.lock:
            session.flush()
        found = session.settle()
        if found is not None:
            raise found[1]

    def place_of(self, session: Session) -> torch.device:
        """Return the device whose session it is."""
        return self._places[session]

    def options(self, index: int, given: Options) -> Options:
        """Return options with which a graph runs on a device, and is otherwise as it was."""
        own = self._options()
        daemons = own.daemons[index : index + 1]
        if any(daemon.endswith(ALL_DEVICES) for daemon in own.daemons):
            daemons = (CONNECTIONS.fleet(own).connections[index].endpoint,)
        return replace(given, daemons=daemons, key_file=own.key_file)

    def _open(self, index: int) -> Connection:
        own = self._options()
        return CONNECTIONS.get(self.options(index, own))

    def _options(self) -> Options:
        return self._fleet or resolve_options(None, os.environ)


DEVICES = Devices()
"""The process's devices; their sessions are those of `CONNECTIONS`."""
