"""A daemon that keeps weights has them after a restart, and after the death of a worker; each key has its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamo_genie
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from tests.integration.real_daemon import RealDaemon, SimulatedDaemon, environment, eventually

pytestmark = pytest.mark.timeout(240)


def sent_weights(daemon: RealDaemon, key_file: str | None = None) -> int:
    """Call the same model in a session of its own; return how many bytes of weights were sent for it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 16)).requires_grad_(False)
    options = {"daemons": [daemon.endpoint], **({"key_file": key_file} if key_file else {})}
    data = torch.ones(2, 256)
    expected = model(data)
    found = torch.compile(model, backend="genie", options=options)(data)
    assert torch.equal(dynamo_genie.to_local(found), expected)
    nbytes: int = dynamo_genie.stats()["total"]["sent"]["weight"]
    dynamo_genie.shutdown()
    torch._dynamo.reset()
    return nbytes


def files(directory: Path) -> int:
    return len(list(directory.glob("*/*.weight")))


def test_weights_outlive_a_daemon_and_a_worker(tmp_path: Path) -> None:
    cache = tmp_path / "weights"
    with RealDaemon(more=["--weight-cache", str(cache), "--weight-cache-limit", "64MiB"]) as daemon:
        assert sent_weights(daemon) > 256 * 256 * 4
        assert eventually(lambda: files(cache) == 4)
        daemon.restart()
        assert sent_weights(daemon) == 0
        daemon.kill_worker()
        assert sent_weights(daemon) == 0
        assert (cache.stat().st_mode & 0o777, (cache / "everyone").stat().st_mode & 0o777) == (0o711, 0o700)


def test_a_device_with_memory_of_its_own_gets_them_too(tmp_path: Path) -> None:
    with SimulatedDaemon(more=["--weight-cache", str(tmp_path / "weights")]) as daemon:
        assert sent_weights(daemon) > 0
        assert eventually(lambda: files(tmp_path / "weights") == 4)
        daemon.restart()
        assert sent_weights(daemon) == 0


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "dynamo_genie.cli", "daemon", "--weight-cache", str(tmp_path / "file" / "weights")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "name a directory that the daemon may write" in done.stderr


def test_each_key_has_its_own(tmp_path: Path) -> None:
    cache, server = tmp_path / "weights", create_server_keys(tmp_path / "keys")
    mine, theirs = (str(create_client_keys(server, name)) for name in ("mine", "theirs"))
    with RealDaemon(keys=tmp_path / "keys", more=["--weight-cache", str(cache)]) as daemon:
        assert sent_weights(daemon, mine) > 0
        assert eventually(lambda: files(cache) == 4)
        assert sent_weights(daemon, theirs) > 0
        assert eventually(lambda: files(cache) == 8)
        assert len(list(cache.iterdir())) == 2


def test_a_damaged_file_is_sent_again(tmp_path: Path) -> None:
    cache = tmp_path / "weights"
    with RealDaemon(more=["--weight-cache", str(cache)]) as daemon:
        sent_weights(daemon)
        assert eventually(lambda: files(cache) == 4)
        for path in cache.glob("*/*.weight"):
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        daemon.restart()
        assert sent_weights(daemon) > 0
        assert eventually(lambda: files(cache) == 4)
        daemon.restart()
        assert sent_weights(daemon) == 0
