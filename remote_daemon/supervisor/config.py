"""The configuration of a supervisor: what `genie daemon` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dynamo_genie.remote_daemon.sandbox.policy import SandboxPolicy
from dynamo_genie.remote_daemon.supervisor.keys import ServerKeys
from dynamo_genie.remote_daemon.supervisor.worker_process import WORKER_COMMAND


@dataclass(frozen=True)
class SupervisorConfig:
    """The configuration of a supervisor; sizes are in bytes, 0 lets it choose."""

    listen: str
    devices: tuple[str, ...] = ("auto",)
    memory_limit: int = 0
    host_memory_limit: int = 0
    session_share: float = 1.0
    keys: ServerKeys | None = None
    worker_ports: tuple[int, int] | None = None
    parent_pid: int | None = None
    heartbeat_s: float = 1.0
    lease_s: float = 30.0
    drain_s: float = 10.0
    max_sessions: int = 1024
    operator_timeout_s: float = 0.0
    standby: bool = False
    weight_cache: Path | None = None
    weight_cache_limit: int = 0
    model_dirs: tuple[Path, ...] = ()
    worker_command: tuple[str, ...] = WORKER_COMMAND
    sandbox: SandboxPolicy = field(default_factory=SandboxPolicy)
