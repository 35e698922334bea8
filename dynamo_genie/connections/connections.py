"""The sessions of this process: one per daemon and key, opened when first needed, opened again when lost for good."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import torch
import zmq

from dynamo_genie.connections.client_work import ClientWork
from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.options import ALL_DEVICES, LinkSpeed, Options
from dynamo_genie.runtime.connect.embedded import EmbeddedDaemon
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.session.peer_mesh import PeerMesh
from dynamo_genie.runtime.weights.weights import ResidentWeights
from dynamo_genie.runtime.writes.write_tracking import WriteTracker, make_write_tracker

FleetKey = tuple[tuple[str, ...], str | None, tuple[LinkSpeed, ...]]


class Connections:
    """Owns the process's sessions and its embedded daemon. A forked child starts with none."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.shutdown)

    def _forget(self) -> None:
        """Begin with nothing: in a forked child the parent's sockets and daemon are not ours."""
        self._lock = threading.RLock()
        self._starting = threading.Lock()
        self._open: dict[tuple[str, str | None], Connection] = {}
        self._fleets: dict[FleetKey, Fleet] = {}
        self._embedded: EmbeddedDaemon | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._tracker: WriteTracker | None = None
        self.mesh = PeerMesh()
        self.client_work = ClientWork()

    def get(self, options: Options) -> Connection:
        """Return a live connection for these options, opening one when there is none.

        Raises:
            DaemonUnavailable: No daemon answers, or the embedded one does not start.
        """
        with self._lock:
            key = (options.daemons[0] if options.daemons else "", options.key_file)
            known = self._open.get(key)
            if known is not None and known.alive:
                return known
            if known is not None:
                known.close()
            self._open[key] = self._connect(lambda: key[0] or self._start_embedded(options), options)
            return self._open[key]

    def fleet(self, options: Options) -> Fleet:
        """Return live connections to all daemons of these options.

        Raises:
            DaemonUnavailable: One of the daemons does not answer.
        """
        with self._lock:
            key = (options.daemons, options.key_file, options.links)
            fleet = self._fleets.get(key)
            if fleet is None or not fleet.alive:
                daemons = options.daemons or ("",)
                named = [device for daemon in daemons for device in self._devices(daemon, options)]
                connections = [self.get(replace(options, daemons=(device,))) for device in dict.fromkeys(named)]
                fleet = self._fleets[key] = Fleet(connections, self.mesh, options.links)
            return fleet

    def _devices(self, daemon: str, options: Options) -> list[str]:
        """Return the endpoints of the devices that an item of `daemons` stands for."""
        if not daemon.endswith(ALL_DEVICES):
            return [daemon]
        address = daemon.removesuffix(ALL_DEVICES)
        first = self.get(replace(options, daemons=(address,)))
        others = range(1, first.session.attachment.welcome.devices)
        return [address, *(f"{address}#{device}" for device in others)]

    def all(self) -> list[Connection]:
        """Every open connection."""
        with self._lock:
            return list(self._open.values())

    def shutdown(self) -> None:
        """Close every session and stop the embedded daemon."""
        with self._lock:
            for connection in self._open.values():
                connection.close()
            self._open.clear()
            self._fleets.clear()
            if self._embedded is not None:
                self._embedded.stop()
                self._embedded = None

    def _connect(self, find: Callable[[], str], options: Options) -> Connection:
        """Open a session on the daemon that `find` names, now and when its worker is gone."""
        if self._context is None:
            self._context = zmq.Context()
        if self._tracker is None:
            self._tracker = make_write_tracker()
        endpoint = find()
        session = open_session(
            self._context,
            endpoint,
            keys=load_client_keys(options.key_file) if options.key_file else None,
            connect_timeout_s=options.connect_timeout_s,
            request_timeout_s=options.request_timeout_s,
            find_again=find if options.recovery == "replay" else None,
        )
        progress = sys.stderr.isatty() if options.progress is None else options.progress
        return Connection(endpoint, session, ResidentWeights(session.weight_channel, self._tracker, progress=progress))

    def _start_embedded(self, options: Options) -> str:
        with self._starting:  # not the other lock: whoever needs a daemon again holds that of a session
            if self._embedded is None or not self._embedded.alive:
                self._embedded = EmbeddedDaemon.start(threads=torch.get_num_threads())
            return self._embedded.endpoint


CONNECTIONS = Connections()
"""The process's connections. Which daemon a graph uses follows from its options, never from this object."""
