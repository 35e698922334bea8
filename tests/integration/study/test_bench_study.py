"""The study end to end on tiny models: rows that count, what a killed run leaves, answers that differ."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamo_genie.bench.network.keepalives import keep_alive_nbytes
from dynamo_genie.bench.network.namespaces import existing
from dynamo_genie.bench.study.orders import MeasuredPhase, Ready, RepeatDone
from dynamo_genie.bench.study.plan import Group, Member, Protocol, members_of
from dynamo_genie.bench.study.records import Row, Study, read_study
from dynamo_genie.bench.study.rows import Taken, rows_of
from dynamo_genie.modes import MODES
from tests.integration.real_daemon import environment, eventually
from tests.integration.study.test_network import root  # noqa: F401  # a fixture

LIMIT_S = 280.0


def bench(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dynamo_genie.cli", "bench", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def finished(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    out, log = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, log.decode()[-3000:]
    return out.decode(), log.decode()


def moved(row: Row) -> int:
    return sum(row.sent.values()) + sum(row.received.values())


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_modes_on_loopback_measures_every_mode_in_both_phases(tmp_path: Path) -> None:
    out, log = finished(bench("modes", "--quick", "--network", "loopback", cwd=tmp_path))
    study = read_study(tmp_path / "modes.json")
    assert study.complete
    assert "not shaped" in study.networks[0].note
    assert "not shaped" in log
    assert [(row.phase, row.mode) for row in study.rows] == [(p, mode) for p in ("prefill", "decode") for mode in MODES]
    check(study)
    assert all(row.wire is None for row in study.rows)
    assert "remote_cache" in out
    assert (tmp_path / "modes.md").exists()
    assert (tmp_path / "modes-decode-latency.svg").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("root")
def test_the_kernel_counts_the_bytes_that_we_count(tmp_path: Path) -> None:
    finished(bench("modes", "--quick", "--network", "10gbit,0.1ms", cwd=tmp_path))
    study = read_study(tmp_path / "modes.json")
    check(study)
    for row in study.rows:
        assert row.wire is not None
        if row.mode != "local":
            assert abs(row.wire.payload_bytes - moved(row)) <= 0.02 * moved(row), (row.mode, row.phase)


def check(study: Study) -> None:
    """Hold what is true on any network."""
    rows = {(row.phase, row.mode): row for row in study.rows}
    assert [row.void for row in study.rows] == [""] * len(study.rows)
    assert all(len(row.seconds) == 2 for row in study.rows)
    assert {len(repeat) for row in study.rows for repeat in row.seconds if row.phase == "decode"} == {5}
    for phase in ("prefill", "decode"):
        naive, cache, handle, ours = (rows[phase, mode] for mode in ("naive", "remote_cache", "handle", "semantic"))
        assert moved(rows[phase, "local"]) == 0
        assert moved(naive) > moved(cache) > 50 * moved(handle) > 0
        assert moved(ours) <= moved(handle)
        assert naive.sent["weight"] > 0
        assert "weight" not in cache.sent
        assert "kv_cache" not in handle.received
        assert all(
            row.busy_s and row.daemon_peak_bytes and row.client_peak_bytes for row in (naive, cache, handle, ours)
        )
    assert rows["decode", "remote_cache"].sent["kv_cache"] > 0


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_daemons_with_caches_together_move_less_than_apart(tmp_path: Path) -> None:
    arguments = ["--model", "tiny-gpt2", "--prompts", "64", "--networks", "loopback", "--repeats", "2"]
    finished(bench("colocation", *arguments, cwd=tmp_path))
    rows = {
        (row.mode, row.placement): row for row in read_study(tmp_path / "colocation.json").rows if row.phase == "decode"
    }
    assert sum(rows["handle", "blind"].peer_bytes.values()) > 0
    assert rows["semantic", "semantic"].peer_bytes == {}
    assert "Less data" in (tmp_path / "colocation.md").read_text(encoding="utf-8")


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_sessions_are_measured_one_by_one(tmp_path: Path) -> None:
    arguments = [
        "--model",
        "tiny-gpt2",
        "--sessions",
        "2",
        "--repeats",
        "2",
        "--network",
        "loopback",
        "--modes",
        "semantic",
    ]
    finished(bench("concurrency", *arguments, cwd=tmp_path))
    [row] = [
        row for row in read_study(tmp_path / "concurrency.json").rows if (row.phase, row.mode) == ("decode", "semantic")
    ]
    assert len(row.session_seconds) == row.sessions == 2
    assert row.steps == 2 * 2 * 20
    assert row.void == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_half_way_leaves_its_rows_and_nothing_else(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "modes.json"
    arguments = ["modes", "--model", "tiny-gpt2", "--repeats", "100000", "--modes", "semantic", "--network", "1gbit"]
    process = bench(*arguments, cwd=tmp_path)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (path.exists() and read_study(path).rows):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert eventually(lambda: not [name for name in existing() if f"-{process.pid}-" in name])
    assert eventually(lambda: not session_of(process.pid))
    study = read_study(path)
    assert not study.complete
    assert {row.mode for row in study.rows} == {"local", "semantic"}
    report = finished(bench("report", str(path), cwd=tmp_path))
    assert "files" in report[0]
    assert "INCOMPLETE" in (tmp_path / "modes.md").read_text(encoding="utf-8")


def test_a_report_of_what_is_no_document_says_so(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# no document\n", encoding="utf-8")
    for path, why in ((page, "is not a document of the study"), (tmp_path / "none.json", "cannot read")):
        process = bench("report", str(path), cwd=tmp_path)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, errors.count(b"\n")) == (1, 1), errors
        assert why in errors.decode()


def session_of(leader: int) -> list[int]:
    """Return the living processes of the session that a process led."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, _, _, session = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == leader and state != "Z":
                found.append(int(entry))
    return found


def test_answers_that_differ_from_those_of_local_make_a_row_void() -> None:
    group = Group("loopback", "gpt2", 8, members_of(("local", "semantic")))
    taken = Taken(Member("semantic"), Ready(("decode",), "cpu", (), 1))
    phase = MeasuredPhase((0.1, 0.1), {}, {}, 0, {}, (), 0, 0.0, 0.2, 0.1)
    taken.compare([1, 2, 3], (RepeatDone((phase,), (1, 2, 3), 1),))
    assert rows_of(taken, group, Protocol(), "loopback")[0].void == ""
    taken.compare([1, 2, 3], (RepeatDone((phase,), (1, 9, 3), 1),))
    taken.compare([1, 2, 3], (RepeatDone((phase,), (1, 2, 3), 1),))
    assert rows_of(taken, group, Protocol(), "loopback")[0].void == "answer 1 of 3 is 9, and 2 in mode local"
    short = Taken(Member("semantic"), Ready(("decode",), "cpu", (), 1))
    short.compare([1, 2, 3], (RepeatDone((phase,), (1, 2), 1),))
    assert "is None, and 3" in rows_of(short, group, Protocol(), "loopback")[0].void


def test_what_keeps_a_lease_is_told_by_the_port() -> None:
    assert keep_alive_nbytes(packet(40_000, 5555, b"\x00\x05hello"), ()) == 0
    assert keep_alive_nbytes(packet(40_000, 5555, b"\x00\x05hello"), (5555,)) == 7
    assert keep_alive_nbytes(packet(5555, 40_000, b"\x00\x05hello"), (5555,)) == 7
    assert keep_alive_nbytes(packet(40_000, 5555, b""), (5555,)) == 0


def packet(source: int, target: int, payload: bytes) -> bytes:
    """Return an IPv4 packet as the kernel shows it."""
    tcp = source.to_bytes(2, "big") + target.to_bytes(2, "big") + bytes(8) + bytes([8 << 4]) + bytes(19)
    length = 20 + len(tcp) + len(payload)
    return bytes([0x45, 0]) + length.to_bytes(2, "big") + bytes(5) + bytes([6]) + bytes(10) + tcp + payload
