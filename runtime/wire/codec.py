"""Bytes to typed messages and back. Anything that does not fit the types is a `ProtocolError`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire import messages as m

T = TypeVar("T")

_ENCODER = msgspec.msgpack.Encoder()
encode = _ENCODER.encode


class Decoder(Generic[T]):
    """A decoder for one side of one conversation; raises `ProtocolError` on everything else."""

    def __init__(self, union: Any, name: str) -> None:
        self._decode: Callable[[Any], T] = msgspec.msgpack.Decoder(union).decode
        self._name = name

    def __call__(self, data: Any) -> T:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
            raise ProtocolError(f"malformed {self._name} message: {error}") from None


client_to_supervisor: Decoder[m.ClientToSupervisor] = Decoder(m.ClientToSupervisor, "client-to-supervisor")
supervisor_to_client: Decoder[m.SupervisorToClient] = Decoder(m.SupervisorToClient, "supervisor-to-client")
supervisor_to_worker: Decoder[m.SupervisorToWorker] = Decoder(m.SupervisorToWorker, "supervisor-to-worker")
worker_to_supervisor: Decoder[m.WorkerToSupervisor] = Decoder(m.WorkerToSupervisor, "worker-to-supervisor")
client_to_worker: Decoder[m.ClientToWorker] = Decoder(m.ClientToWorker, "client-to-worker")
worker_to_client: Decoder[m.WorkerToClient] = Decoder(m.WorkerToClient, "worker-to-client")
to_bulk: Decoder[m.ClientToBulk | m.PeerToBulk] = Decoder(m.ClientToBulk | m.PeerToBulk, "bulk")
bulk_to_client: Decoder[m.BulkToClient] = Decoder(m.BulkToClient, "bulk-to-client")
bulk_to_peer: Decoder[m.BulkToPeer] = Decoder(m.BulkToPeer, "bulk-to-peer")
