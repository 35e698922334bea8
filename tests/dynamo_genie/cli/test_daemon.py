"""`genie daemon`, `status` and `keygen` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dynamo_genie.child_process import child_environment
from dynamo_genie.cli.daemon import parse_devices, parse_nbytes, parse_ports
from dynamo_genie.cli.status import render
from dynamo_genie.errors import OptionError
from dynamo_genie.quantities import nbytes_text
from dynamo_genie.runtime.wire import messages as m
from tests.remote_daemon.fixtures import DaemonProcess, children_of, is_running

LIMIT_S = 110.0


def genie(arguments: Sequence[str], **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamo_genie.cli", *arguments]
    environment = child_environment({**os.environ, **environ})
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)


def test_the_daemon_says_one_line_serves_and_ends_with_0() -> None:
    command = [sys.executable, "-m", "dynamo_genie.cli", "daemon", "--listen", "tcp://127.0.0.1:*", "--device", "cpu"]
    command += ["--memory-limit", "1GiB"]
    daemon = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(os.environ)
    )
    assert daemon.stdout is not None
    ready, endpoint = daemon.stdout.readline().split()
    assert ready == "ready"
    workers = children_of(daemon.pid)
    report = json.loads(genie(["status", "--json"], GENIE_DAEMONS=endpoint).stdout)
    assert (report["pid"], report["endpoint"], report["workers"][0]["tenant"]) == (daemon.pid, endpoint, "default")
    assert report["workers"][0]["memory_limit"] == 1 << 30
    daemon.send_signal(signal.SIGTERM)
    rest, _ = daemon.communicate(timeout=LIMIT_S)
    assert (daemon.returncode, rest) == (0, "")
    assert not any(is_running(pid) for pid in workers)


def test_a_public_address_needs_keys() -> None:
    done = genie(["daemon", "--listen", "tcp://0.0.0.0:*"])
    assert done.returncode == 1
    assert done.stderr.startswith("genie: will not listen on tcp://0.0.0.0:* without keys")
    assert done.stdout == ""


def test_keygen_then_daemon_then_status_with_the_key(tmp_path: Path) -> None:
    made = genie(["keygen", str(tmp_path), "--client", "alice"])
    assert made.returncode == 0
    assert "GENIE_KEY_FILE=" in made.stdout
    daemon = DaemonProcess(listen="tcp://127.0.0.1:*", keys=str(tmp_path))
    try:
        endpoint = daemon.wait_ready()
        status = ["status", "--json", "--endpoint", endpoint]
        assert genie([*status, "--key-file", str(tmp_path / "alice.key")]).returncode == 0
        refused = genie(status)
        assert refused.returncode == 1
        assert "key_file" in refused.stderr
    finally:
        daemon.stop()


def test_status_without_a_daemon_says_so() -> None:
    done = genie(["status", "--json", "--endpoint", "tcp://127.0.0.1:1"], GENIE_CONNECT_TIMEOUT_S="0.3")
    assert done.returncode == 1
    assert done.stderr.startswith("genie: no daemon answered at tcp://127.0.0.1:1 within 0.3 s")


def test_the_command_line_imports_no_torch() -> None:
    code = "import sys, dynamo_genie.cli.__main__; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True,
        env=child_environment(os.environ),
    )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_the_help_names_every_command() -> None:
    text = genie(["--help"]).stdout
    for name in ("daemon", "status", "keygen", "demo", "bench"):
        assert name in text


def test_a_status_is_laid_out_for_people() -> None:
    from rich.console import Console

    session = m.SessionStatus("abc", "host:7 [/b]\x1b", 61.0, 5, 6, 1536)
    worker = m.WorkerStatus("default", 12, "ready", "cpu", 8 << 30, 1536, 0, 1, 5, (session,), (("activation", 3072),))
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(m.DaemonStatus("tcp://h:1", 3, 3700.0, 1, False, (worker,))))
    text = console.export_text()
    for part in (
        "tcp://h:1",
        "1:01:40",
        "default",
        "ready",
        "1.5 KiB",
        "8.0 GiB",
        "host:7 [/b]?",
        "0:01:01",
        "activation",
        "3.0 KiB",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("0", 0), ("1000", 1000), ("8GiB", 8 << 30), ("1.5 kib", 1536), ("2MB", 2_000_000), ("1G", 10**9)],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_nbytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "8XB", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is no size"):
        parse_nbytes(text)


def test_devices() -> None:
    assert parse_devices("auto") == ("auto",)
    assert parse_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert parse_devices("cpu,cpu") == ("cpu", "cpu")
    for text in ("", "tpu", "auto,cpu", "cuda:0,", "cuda:1000"):
        with pytest.raises(OptionError, match="write auto, cpu or cuda:N, or several"):
            parse_devices(text)
    with pytest.raises(OptionError, match="names cuda:0 twice"):
        parse_devices("cuda:0,cuda:0")


def test_ports() -> None:
    assert parse_ports("7800-7899") == (7800, 7899)
    for text in ("", "7800", "9-8", "0-5", "1-70000"):
        with pytest.raises(OptionError, match="worker-ports"):
            parse_ports(text)


def test_human_sizes() -> None:
    assert [nbytes_text(n) for n in (0, 1023, 1536, 3 << 40)] == ["0 B", "1023 B", "1.5 KiB", "3.0 TiB"]
