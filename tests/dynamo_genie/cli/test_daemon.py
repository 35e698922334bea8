"""`genie daemon`, `status` and `keygen` as a user runs them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dynamo_genie.child_process import child_environment
from dynamo_genie.cli.daemon import check_seconds, parse_devices, parse_nbytes, parse_ports
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
    [supervisor] = children_of(daemon.pid)
    workers = children_of(supervisor)
    assert workers
    report = json.loads(genie(["status", "--json"], GENIE_DAEMONS=endpoint).stdout)
    assert (report["pid"], report["endpoint"], report["workers"][0]["tenant"]) == (supervisor, endpoint, "default")
    assert report["workers"][0]["memory_limit"] == 1 << 30
    piped = genie(["status"], GENIE_DAEMONS=endpoint)
    assert (piped.returncode, piped.stdout.startswith(f"{endpoint}  pid {supervisor}  serving")) == (0, True)
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


def test_keygen_on_a_folder_with_keys_says_what_is_there_and_keeps_it(tmp_path: Path) -> None:
    assert genie(["keygen", str(tmp_path), "--client", "alice"]).returncode == 0
    before = (tmp_path / "server.key").read_bytes()
    again = genie(["keygen", str(tmp_path)])
    assert again.returncode == 0
    assert "has a daemon's keys already; they stay. Clients admitted: alice" in again.stdout
    assert "nothing to make; admit another client with: genie keygen" in again.stdout
    assert genie(["keygen", str(tmp_path), "--client", "bob"]).stdout.count("key file for") == 1
    assert (tmp_path / "server.key").read_bytes() == before


def test_keygen_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("/proc/keys-of-mine", str(tmp_path / "file")):
        done = genie(["keygen", place])
        assert done.returncode == 1
        assert done.stderr.startswith(f"genie: cannot keep keys in {place}: ")
        assert done.stderr.count("\n") == 1


def test_a_port_that_does_not_exist_is_said_at_once() -> None:
    for arguments in (["status", "--endpoint", "tcp://h:99999"], ["daemon", "--listen", "tcp://127.0.0.1:99999"]):
        done = genie(arguments)
        assert done.returncode == 1
        assert "99999" in done.stderr
        assert "65535" in done.stderr


def test_the_version_and_the_module_are_the_same_command() -> None:
    shown = genie(["--version"])
    assert (shown.returncode, shown.stdout.split()[0].rstrip(",")) == (0, "genie")
    command = [sys.executable, "-m", "dynamo_genie", "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=True, env=child_environment(os.environ)
    )
    assert done.stdout == shown.stdout


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


def test_no_heading_and_no_figure_of_a_status_is_cut_off_in_80_columns() -> None:
    from rich.console import Console

    session = m.SessionStatus("1f25bebb7c38", "gpu-box:123456 python 3.11.7", 3e5, 123_456, 1234, 999 << 30)
    worker = m.WorkerStatus(
        "a-long-client-name:abcdefgh", 1_234_567, "draining", "cuda:0 NVIDIA H200", 139 << 30, 1023 << 30, 999 << 30,
        1234, 1_234_567, (session,), (("activation", 3072),), (), (m.EngineStatus("cudagraphs", "fast", 9, 1_234_567),),
    )  # fmt: skip
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(m.DaemonStatus("tcp://h:1", 3, 3700.0, 1, False, (worker,))))
    text = console.export_text()
    assert "…" not in text
    for heading in (
        "tenant",
        "state",
        "device",
        "resident",
        "weights",
        "limit",
        "programs",
        "calls",
        "session",
        "client",
    ):
        assert heading in text


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


@pytest.mark.parametrize("seconds", [-3.0, 0.5, math.nan, math.inf])
def test_seconds_that_nobody_can_wait_for_are_refused(seconds: float) -> None:
    assert check_seconds("--grace", 1.0, least=1) == 1.0
    with pytest.raises(OptionError, match=r"--grace .*: write seconds, 1 or more"):
        check_seconds("--grace", seconds, least=1)
