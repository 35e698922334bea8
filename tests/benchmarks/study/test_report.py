"""Reports from documents made up here: every cell follows from the document, and so does every byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dynamo_genie.bench.network.spec import NetworkShape
from dynamo_genie.bench.study.records import Gap, Row, Study, Wire, read_study, write_study
from dynamo_genie.bench.study.report.document import files_of, tables_of
from dynamo_genie.bench.study.report.figures import fairness, figures_of, quantile
from dynamo_genie.bench.study.report.pages import filled
from dynamo_genie.bench.study.report.table import Table
from dynamo_genie.bench.study.report.terminal import pieces
from dynamo_genie.errors import GenieError
from tests.integration.real_daemon import environment

NETWORK = NetworkShape("1gbit,1ms", 1e9, 1e-3, 0.0, 0.95e9, 2.2e-3)


def row(mode: str, *seconds: tuple[float, ...], **changes: object) -> Row:
    plain = Row(
        mode, "decode", "gpt2", "float32", "cpu", NETWORK.name, 128, seconds or ((0.1, 0.2), (0.3, 0.4)), steps=4
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def study(*rows: Row, experiment: str = "modes", complete: bool = True, gaps: tuple[Gap, ...] = ()) -> Study:
    return Study(
        experiment, "genie bench modes", "2026-01-01T00:00:00+00:00", 0, 2, complete, {"cpu": "made up"}, (NETWORK,),
        rows, gaps,
    )  # fmt: skip


LOCAL = row("local", (0.1, 0.1), (0.1, 0.1))
CACHE = row(
    "remote_cache", (0.2, 0.2), (0.4, 0.4), sent={"kv_cache": 4000}, received={"kv_cache": 3900, "control": 100},
    wire=Wire(5000, 4000, 10, 10, 20 * 66 - 320, 0), busy_s=0.3,
)  # fmt: skip
OURS = row("semantic", (0.11, 0.11), (0.11, 0.11), sent={"control": 40}, received={"control": 40}, gpu_utilisation=0.5)


def table(document: Study, name: str) -> Table:
    return next(found for found in tables_of(document) if found.name == name)


def cells(found: Table, column: str) -> list[str]:
    return [line[found.columns.index(column)] for line in found.rows]


def test_figures_follow_from_the_samples() -> None:
    local, cache, ours = figures_of(study(LOCAL, CACHE, OURS))
    assert cache.mean_s == pytest.approx(0.3)
    assert cache.std_s == pytest.approx(0.2 / 2**0.5)
    assert cache.p50_s == pytest.approx(0.3)
    assert cache.added_s == pytest.approx(0.2)
    assert cache.step_bytes == 2000
    assert cache.total_bytes == 4000
    assert cache.kernel_step_bytes == (9000 - (20 * 66 - 320)) / 4
    assert cache.kernel_deviation == 0.0
    assert cache.busy == pytest.approx(0.25)
    assert cache.tokens_s == pytest.approx(1 / 0.3)
    assert local.added_s == 0
    assert ours.kernel_deviation is None
    assert quantile([1, 2, 3, 4], 0.99) == pytest.approx(3.97)
    assert fairness([1.0, 1.0]) == pytest.approx(1.0)
    assert fairness([1.0, 1e12]) == pytest.approx(0.5)


def test_the_table_of_the_study_has_a_row_for_each_mode_and_says_what_was_not_measured() -> None:
    found = table(study(LOCAL, CACHE, OURS), "latency")
    assert cells(found, "Mode") == ["local", "remote_cache", "semantic"]
    assert cells(found, "Latency (s, mean ± std)")[1] == "0.30000 ± 0.14142"
    assert cells(found, "GPU utilisation (%)") == ["not measured", "not measured", "50"]
    assert cells(found, "Bytes a step") == ["0", "2,000", "20"]
    assert cells(found, "Added to local") == ["0", "200.00 ms", "10.00 ms"]
    worth = table(study(LOCAL, CACHE, OURS), "worth")
    assert cells(worth, "Bytes over semantic's") == ["100 x", "1.0 x"]
    assert cells(worth, "Added time over semantic's") == ["20.0 x", "1.0 x"]


def test_void_rows_show_why_and_no_figure() -> None:
    found = table(
        study(LOCAL, msgspec.structs.replace(CACHE, void="answer 3 of 6 is 7, and 8 in mode local")), "latency"
    )
    assert found.rows[-1][1:3] == ("remote_cache", "void: answer 3 of 6 is 7, and 8 in mode local")
    assert set(found.rows[-1][3:]) == {""}
    assert len(found.rows) == 2


def test_without_local_nothing_is_said_to_be_added() -> None:
    assert cells(table(study(CACHE, OURS), "latency"), "Added to local") == ["not measured", "not measured"]


def test_colocation_says_what_is_saved_and_whether_that_was_wanted() -> None:
    blind = row("handle", (0.2, 0.2), placement="blind", sent={"control": 10}, peer_bytes={"kv_cache": 39_990}, steps=2)
    best = row("semantic", (0.104, 0.104), placement="semantic", sent={"control": 20}, steps=2)
    found = table(study(LOCAL, blind, best, experiment="colocation"), "colocation")
    assert cells(found, "Less time (%)") == ["96.0"]
    assert cells(found, "Less data (%)") == ["99.95"]
    assert found.rows[0][6] == "94 met"
    assert found.rows[0][10] == "99.2 met"
    slow = msgspec.structs.replace(best, seconds=((0.11, 0.11),))
    assert "94 NOT met" in table(study(LOCAL, blind, slow, experiment="colocation"), "colocation").rows[0]


def test_networks_name_where_a_mode_stops_mattering() -> None:
    found = table(study(LOCAL, CACHE, row("semantic", (0.105,), steps=1), experiment="network"), "crossover")
    assert found.rows == (("remote_cache", "nowhere", NETWORK.name), ("semantic", NETWORK.name, "nowhere"))


def test_peers_are_judged_by_what_they_add_and_the_echo_is_no_peer() -> None:
    rows = [
        row("local", (0.10, 0.10)), row("genie (semantic)", (0.11, 0.11), sent={"control": 8}),
        row("ray actor", (0.12, 0.12)), row("pyzmq echo", (0.001, 0.001)),
    ]  # fmt: skip
    found = table(study(*rows, experiment="peers"), "peers")
    assert found.note.startswith("genie adds 10.00 ms, no more than the best peer, ray actor, with 20.00 ms.")
    slower = [*rows[:1], msgspec.structs.replace(rows[1], seconds=((0.2, 0.2),)), *rows[2:]]
    assert "MORE than" in table(study(*slower, experiment="peers"), "peers").note


def test_an_incomplete_document_is_reported_as_such_with_its_gaps() -> None:
    document = study(LOCAL, complete=False, gaps=(Gap("gptj-6b", "needs 247 GB of memory"),))
    page = files_of(document, "some")["some.md"].decode()
    assert "INCOMPLETE" in page
    assert "- gptj-6b: needs 247 GB of memory" in page
    assert files_of(study(), "empty")["empty.md"]


@pytest.mark.parametrize(
    "experiment", ["modes", "kv-length", "colocation", "network", "models", "concurrency", "peers"]
)
def test_the_same_document_gives_the_same_bytes_in_every_process(tmp_path: Path, experiment: str) -> None:
    rows = (
        LOCAL, CACHE, OURS, msgspec.structs.replace(OURS, prompt=1024), msgspec.structs.replace(LOCAL, prompt=1024),
        row("handle", placement="blind"), row("semantic", placement="semantic"),
        row("semantic", sessions=2, session_seconds=(1.0, 1.1)),
    )  # fmt: skip
    path = tmp_path / "some.json"
    write_study(path, study(*rows, experiment=experiment))
    mine = digest(files_of(read_study(path), "some"))
    code = (
        "import sys, pathlib; from tests.benchmarks.study.test_report import digest\n"
        "from dynamo_genie.bench.study.records import read_study\n"
        "from dynamo_genie.bench.study.report.document import files_of\n"
        "print(digest(files_of(read_study(pathlib.Path(sys.argv[1])), 'some')))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**environment(), "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert other.stdout.strip() == mine


def digest(files: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(name.encode() + content for name, content in sorted(files.items()))).hexdigest()


def test_tables_in_a_page_are_filled_in_again(tmp_path: Path) -> None:
    write_study(tmp_path / "some.json", study(LOCAL, CACHE, OURS))
    page = "Before.\n\n<!-- begin: some.json worth -->\nold\n<!-- end -->\n\nAfter.\n"
    new = filled(page, tmp_path)
    assert new.startswith("Before.\n")
    assert new.endswith("After.\n")
    assert table(study(LOCAL, CACHE, OURS), "worth").markdown() in new
    assert "old" not in new
    assert filled(new, tmp_path) == new
    with pytest.raises(GenieError, match="no table 'wurth'; it has latency, worth"):
        filled(page.replace("worth", "wurth"), tmp_path)


def test_check_names_what_would_change_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_study(path, study(LOCAL, CACHE, OURS))

    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dynamo_genie.cli", "bench", "report", str(path), *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, check=False)

    assert report("--check").returncode == 1
    assert os.listdir(tmp_path) == ["some.json"]
    assert report().returncode == 0
    assert report("--check").returncode == 0
    svg = next(tmp_path.glob("*.svg"))
    svg.write_bytes(svg.read_bytes() + b" ")
    changed = report("--check")
    assert changed.returncode == 1
    assert changed.stdout == f"differs: {svg}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"experiment": "modes"', "is not a document of the study"),
        (b'{"experiment": "modes"}', "missing required field"),
        (b"[]", "is not a document of the study"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(GenieError, match=words):
        read_study(path)


def test_documents_of_another_schema_and_missing_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_study(path, msgspec.structs.replace(study(), schema=99))
    with pytest.raises(GenieError, match="has schema 99, and this version reads 1"):
        read_study(path)
    with pytest.raises(GenieError, match="cannot read"):
        read_study(tmp_path / "other.json")


def test_what_is_too_wide_for_a_terminal_comes_in_pieces_with_every_column_once() -> None:
    found = table(study(LOCAL, CACHE, OURS), "latency")
    for width in (40, 80, 120, 500):
        shown = list(pieces(found, width))
        assert all(columns[:2] == [0, 1] for columns in shown)
        assert [i for columns in shown for i in columns[2:]] == list(range(2, len(found.columns)))
        assert (len(shown) == 1) == (width == 500)
