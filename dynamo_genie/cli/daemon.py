"""`genie daemon`: serve this machine's accelerator. Never imports torch; its workers do."""

from __future__ import annotations

import logging
import math
import re
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, parse_endpoint
from dynamo_genie.remote_daemon.sandbox.policy import SandboxPolicy
from dynamo_genie.remote_daemon.sandbox.privileges import find_worker_user
from dynamo_genie.remote_daemon.supervisor.config import SupervisorConfig
from dynamo_genie.remote_daemon.supervisor.indexing import check_model_dirs
from dynamo_genie.remote_daemon.supervisor.keys import load_server_keys
from dynamo_genie.remote_daemon.supervisor.serve import serve, serve_kept
from dynamo_genie.remote_daemon.supervisor.weight_folders import open_weight_cache
from dynamo_genie.runtime.wire.limits import MAX_DEVICES

_DEVICE = re.compile(r"cpu|cuda:\d{1,3}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")
_POWERS = MappingProxyType({"": 0, "K": 1, "M": 2, "G": 3, "T": 4})


def daemon(
    listen: Annotated[
        str, typer.Option(help="tcp://HOST:PORT (PORT may be *) or ipc:///PATH")
    ] = "tcp://127.0.0.1:7777",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N; several: cuda:0,cuda:1")] = "auto",
    memory_limit: Annotated[str, typer.Option(help="Most bytes to use, e.g. 8GiB; 0 lets it choose")] = "0",
    host_memory_limit: Annotated[
        str,
        typer.Option(help="With a GPU: most bytes of host memory for uploads and evicted tensors"),
    ] = "0",
    session_share: Annotated[
        float, typer.Option(help="The part of the memory that one session may have, above 0 and up to 1")
    ] = 1.0,
    keys: Annotated[Path | None, typer.Option(help="Directory made by `genie keygen`; needed off loopback")] = None,
    worker_ports: Annotated[str, typer.Option(help="Ports for workers, A-B; any free ones by default")] = "",
    grace: Annotated[
        float, typer.Option(help="Seconds that a session waits for a client or a network that is silent")
    ] = 30.0,
    max_sessions: Annotated[int, typer.Option(help="Most sessions of one client key on a device", min=1)] = 1024,
    operator_timeout: Annotated[
        float, typer.Option(help="Replace a worker in which one operator runs longer than so many seconds; 0: never")
    ] = 0.0,
    standby: Annotated[
        bool, typer.Option("--standby", help="Keep PyTorch loaded beside the workers: new ones start in a moment")
    ] = False,
    weight_cache: Annotated[
        Path | None, typer.Option(help="Keep weights in this directory: after a restart nobody sends them again")
    ] = None,
    weight_cache_limit: Annotated[
        str, typer.Option(help="Most bytes of them for one client key; 0: half of what is free there")
    ] = "0",
    model_dir: Annotated[
        list[Path] | None,
        typer.Option(help="Offer the safetensors files below this directory to all clients; may be given again"),
    ] = None,
    parent_pid: Annotated[int | None, typer.Option(help="Exit when this process ends")] = None,
    worker_user: Annotated[str, typer.Option(help="Run workers as this user, where the daemon is root")] = "",
    no_sandbox: Annotated[
        bool,
        typer.Option("--no-sandbox", envvar="GENIE_NO_SANDBOX", help="Let workers do whatever their user may"),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show clients this machine's paths in errors")] = False,
    owns_directory: Annotated[bool, typer.Option("--owns-directory", hidden=True)] = False,
) -> None:
    """Serve this machine's accelerator; prints `ready ENDPOINT` when it can, drains and ends on SIGTERM."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if owns_directory and not isinstance(parse_endpoint(listen), IpcAddress):
        raise OptionError("--owns-directory is for ipc endpoints")
    if standby and not sys.platform.startswith("linux"):
        raise OptionError("--standby needs Linux: a worker that is forked must get another parent")
    cache = open_weight_cache(weight_cache) if weight_cache is not None else None
    sandbox = SandboxPolicy(
        confined=not no_sandbox,
        user=find_worker_user(worker_user) if worker_user else None,
        hidden=tuple(str(place.expanduser()) for place in (keys, cache) if place is not None),
        whole_errors=debug,
    )
    config = SupervisorConfig(
        listen=listen,
        devices=parse_devices(device),
        memory_limit=parse_nbytes(memory_limit),
        host_memory_limit=parse_nbytes(host_memory_limit),
        session_share=check_share(session_share),
        keys=load_server_keys(keys) if keys is not None else None,
        worker_ports=parse_ports(worker_ports) if worker_ports else None,
        parent_pid=parent_pid,
        heartbeat_s=min(1.0, grace / 4),
        lease_s=check_seconds("--grace", grace, least=1),
        sandbox=sandbox,
        max_sessions=max_sessions,
        operator_timeout_s=check_seconds("--operator-timeout", operator_timeout, least=0),
        standby=standby,
        weight_cache=cache,
        weight_cache_limit=parse_nbytes(weight_cache_limit),
        model_dirs=check_model_dirs(model_dir or ()),
    )
    embedded = parent_pid is not None or owns_directory  # it ends with its client, who starts another one if need be
    raise typer.Exit(serve(config, owns_directory=owns_directory) if embedded else serve_kept(config))


def parse_devices(text: str) -> tuple[str, ...]:
    """Read the devices to serve: `auto`, or one or more of `cpu` and `cuda:N`."""
    if text in ("auto", "cuda"):
        return (text,)
    devices = tuple(part.strip() for part in text.split(","))
    if not all(_DEVICE.fullmatch(device) for device in devices) or len(devices) > MAX_DEVICES:
        raise OptionError(f"--device {text!r}: write auto, cpu or cuda:N, or several: cuda:0,cuda:1")
    for device in devices:
        if device != "cpu" and devices.count(device) > 1:
            raise OptionError(f"--device {text!r} names {device} twice; its memory would be given away twice")
    return devices


def parse_nbytes(text: str) -> int:
    """Read a number of bytes: `8GiB`, `512MB`, `1000`."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise OptionError(f"{text!r} is no size; write bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB")
    unit = (found[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    return int(float(found[1]) * base ** _POWERS[unit[:1]])


def check_share(share: float) -> float:
    """Return the share of a session if it can be one."""
    if not 0 < share <= 1:
        raise OptionError(f"--session-share {share:g}: write a number above 0 and up to 1, as 0.5 for a half")
    return share


def check_seconds(option: str, seconds: float, *, least: float) -> float:
    """Return a time if it can be waited for."""
    if not least <= seconds < math.inf:
        raise OptionError(f"{option} {seconds:g}: write seconds, {least:g} or more")
    return seconds


def parse_ports(text: str) -> tuple[int, int]:
    """Read a port range: `7800-7899`."""
    found = _PORTS.fullmatch(text.strip())
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < first <= last <= 65_535:
        raise OptionError(f"--worker-ports {text!r}: write FIRST-LAST, between 1 and 65535; a worker takes two")
    return first, last
