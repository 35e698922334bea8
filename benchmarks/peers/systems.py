"""The systems that are compared, each behind the same two calls."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import zmq

from dynamo_genie.bench.daemon import end, running_daemon
from dynamo_genie.bench.floor import floor_peer
from dynamo_genie.bench.peers.served import ServedDecoder
from dynamo_genie.child_process import child_environment

START_LIMIT_S = 120.0
CALL_LIMIT_S = 60.0


@dataclass(frozen=True)
class DecodeWork:
    """What all of them do: `model` in `workloads.WORKLOADS`, tokens of the prompt, the longest sequence, the seed."""

    model: str
    prompt: int
    longest: int
    seed: int


class System(NamedTuple):
    """A model with its cache somewhere.

    Attributes:
        begin: Feeds the prompt and returns the first token.
        step: Feeds a token and returns the next one.
    """

    begin: Callable[[], int]
    step: Callable[[int], int]


Opener = Callable[[DecodeWork], AbstractContextManager[System]]


@contextmanager
def local(work: DecodeWork) -> Iterator[System]:
    """This process: the floor that what others add is measured from."""
    decoder = ServedDecoder(*astuple(work))
    yield System(decoder.begin, decoder.step)


@contextmanager
def genie(work: DecodeWork) -> Iterator[System]:
    """`torch.compile(model, backend="genie")`, with a daemon of its own, over TCP."""
    import dynamo_genie

    with running_daemon() as daemon:
        try:
            decoder = ServedDecoder(*astuple(work), options={"daemons": daemon.endpoint, "progress": False})
            yield System(decoder.begin, decoder.step)
        finally:
            dynamo_genie.shutdown()


@contextmanager
def torch_rpc(work: DecodeWork) -> Iterator[System]:
    """torch.distributed.rpc over TCP: TensorPipe would use shared memory within a machine, which no network has."""
    from torch.distributed import rpc

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dynamo_genie.bench.peers.rpc_server", str(port), str(os.getpid())]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment(os.environ))
    try:
        rpc.init_rpc("client", rank=0, world_size=2, rpc_backend_options=rpc_options(port))
        try:
            there = rpc.remote("server", ServedDecoder, args=astuple(work))
            yield System(
                lambda: int(there.rpc_sync(timeout=CALL_LIMIT_S).begin()),
                lambda token: int(there.rpc_sync(timeout=CALL_LIMIT_S).step(token)),
            )
        finally:
            rpc.shutdown(graceful=False)
    finally:
        end(server)


def rpc_options(port: int) -> Any:
    """Return the options that both sides must have alike."""
    from torch.distributed import rpc

    options = rpc.TensorPipeRpcBackendOptions(
        init_method=f"tcp://127.0.0.1:{port}", rpc_timeout=START_LIMIT_S, _transports=["uv"], _channels=["basic"]
    )
    os.environ.setdefault("TP_SOCKET_IFNAME", "lo")
    return options


@contextmanager
def ray_actor(work: DecodeWork) -> Iterator[System]:
    """A Ray actor that holds the decoder, awaited call by call, on a cluster of this machine alone."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0")
    import ray

    path = child_environment(os.environ).get("PYTHONPATH", "")
    ray.init(
        address="local",  # else RAY_ADDRESS would lead to a cluster that is none of ours
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=100_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}},
    )  # fmt: skip
    try:
        actor = ray.remote(num_cpus=1)(ServedDecoder).remote(*astuple(work))
        yield System(
            lambda: int(ray.get(actor.begin.remote(), timeout=START_LIMIT_S)),
            lambda token: int(ray.get(actor.step.remote(token), timeout=START_LIMIT_S)),
        )
    finally:
        ray.shutdown()


ECHO_NBYTES = 650


@contextmanager
def echo(work: DecodeWork) -> Iterator[System]:
    """Bare pyzmq with a process that echoes as many bytes as a decode step of genie: the floor of a round trip."""
    with zmq.Context() as context, floor_peer(context, "tcp://127.0.0.1:*", "echo") as connection:

        def step(token: int) -> int:
            connection.send(msgspec.msgpack.encode([token, bytes(ECHO_NBYTES)]))
            return int(msgspec.msgpack.decode(connection.recv())[0])

        yield System(lambda: 0, step)


def missing(name: str) -> str:
    """Say why a system cannot be measured here; empty where it can."""
    if name == "ray actor" and importlib.util.find_spec("ray") is None:
        return "ray is not installed: pip install 'dynamo_genie[peers]'"
    if name == "torch.distributed.rpc":
        import torch.distributed as distributed

        if not distributed.is_available() or not distributed.rpc.is_available():
            return "this build of torch has no torch.distributed.rpc"
    return ""


SYSTEMS: MappingProxyType[str, Opener] = MappingProxyType(
    {
        "local": local,
        "genie (semantic)": genie,
        "torch.distributed.rpc": torch_rpc,
        "ray actor": ray_actor,
        "pyzmq echo": echo,
    }
)
"""By the name that tables show, `local` first."""
