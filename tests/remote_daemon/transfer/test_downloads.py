"""Downloads over a real socket: what a client that does not read keeps in the worker's memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.snapshot import CopiedSnapshot, SharedSnapshot
from dynamo_genie.remote_daemon.transfer.downloads import MAX_QUEUED, Download, Downloads
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, UPLOAD_WINDOW
from tests.remote_daemon.fixtures import eventually

WAIT_MS = 10_000
NCHUNKS = 64


class Bench:
    """A worker's bulk socket with its downloads, and clients that read when they are told to."""

    def __init__(self, path: Path) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._endpoint = f"ipc://{path}/b"
        self.router = self._context.socket(zmq.ROUTER)
        self.router.sndhwm = 1_000
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.bind(self._endpoint)
        self.downloads = Downloads(self.router, self._say)
        self._clients: list[zmq.Socket[bytes]] = []

    def client(self) -> tuple[zmq.Socket[bytes], Any]:
        """Return a client that takes one message from the network, and its downloads."""
        socket = self._context.socket(zmq.DEALER)
        socket.rcvhwm, socket.rcvbuf = 1, 1 << 12
        socket.connect(self._endpoint)
        socket.send(b"")
        self._clients.append(socket)
        assert self.router.poll(WAIT_MS)
        identity, _ = self.router.recv_multipart()
        return socket, self.downloads.open(identity)

    def _say(self, identity: bytes, message: m.BulkToClient | m.BulkToPeer) -> bool:
        self.router.send_multipart([identity, codec.encode(message)])
        return True

    def close(self) -> None:
        for socket in self._clients:
            socket.close(linger=0)
        self.router.close(linger=0)
        self._context.term()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def memory() -> torch.Tensor:
    return torch.arange(NCHUNKS, dtype=torch.uint8).repeat_interleave(CHUNK_NBYTES)


def test_a_client_that_gives_credits_and_never_reads_fills_one_window(bench: Bench) -> None:
    _, outgoing = bench.client()
    bench.downloads.start(outgoing, Download(1, SharedSnapshot(memory())))
    for _ in range(100):
        bench.downloads.credit(outgoing, UPLOAD_WINDOW)
        bench.downloads.tick()
    assert len(outgoing.queued) <= UPLOAD_WINDOW


def test_many_clients_that_never_read_share_what_may_be_queued(bench: Bench) -> None:
    clients = [bench.client()[1] for _ in range(6)]
    for outgoing in clients:
        bench.downloads.start(outgoing, Download(1, SharedSnapshot(memory())))
    for outgoing in clients:
        assert outgoing.queued, "everybody gets something"
    assert bench.downloads.queued <= MAX_QUEUED + len(clients)


def test_a_client_that_reads_gets_every_byte_in_order(bench: Bench) -> None:
    socket, outgoing = bench.client()
    bench.downloads.start(outgoing, Download(7, SharedSnapshot(memory())))
    for number in range(NCHUNKS):
        while not socket.poll(50):
            bench.downloads.tick()
        header, data = socket.recv_multipart()
        assert codec.bulk_to_client(header) == m.Chunk(7, number * CHUNK_NBYTES)
        assert data == bytes([number]) * CHUNK_NBYTES
        bench.downloads.credit(outgoing, 1)
    assert not outgoing.waiting


def test_a_copy_counts_until_the_network_has_all_of_it(bench: Bench) -> None:
    budget = MemoryBudget(NCHUNKS * CHUNK_NBYTES)
    budget.reserve(4 * CHUNK_NBYTES, "a copy")
    socket, outgoing = bench.client()
    data = memory()[: 4 * CHUNK_NBYTES].numpy().data
    bench.downloads.start(outgoing, Download(1, CopiedSnapshot(data, budget)))
    assert not outgoing.waiting
    assert budget.used == 4 * CHUNK_NBYTES
    for _ in range(4):
        socket.recv_multipart()

    def is_released() -> bool:
        bench.downloads.tick()
        return budget.used == 0

    assert eventually(is_released)


def test_a_snapshot_that_had_to_make_way_is_refused_by_its_number(bench: Bench) -> None:
    socket, outgoing = bench.client()
    snapshot = SharedSnapshot(memory())
    snapshot.separate(MemoryBudget(0))
    bench.downloads.start(outgoing, Download(9, snapshot))
    bench.downloads.start(outgoing, Download(10, SharedSnapshot(memory()[:3])))
    failed = codec.bulk_to_client(socket.recv())
    assert isinstance(failed, m.BulkFailed)
    assert (failed.transfer, failed.code) == (9, QuotaExceeded.__name__)
    assert codec.bulk_to_client(socket.recv_multipart()[0]) == m.Chunk(10, 0)


def test_the_downloads_of_a_client_that_left_end(bench: Bench) -> None:
    _, outgoing = bench.client()
    snapshots = [SharedSnapshot(memory()) for _ in range(3)]
    for number, snapshot in enumerate(snapshots):
        bench.downloads.start(outgoing, Download(number, snapshot))
    bench.downloads.close(outgoing)
    assert all(snapshot.ended for snapshot in snapshots)
