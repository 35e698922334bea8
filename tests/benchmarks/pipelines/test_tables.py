"""Tables and plots of pipelines, from documents made up here."""

from __future__ import annotations

import msgspec

from dynamo_genie.bench.study.records import Foretold, Row
from dynamo_genie.bench.study.report.document import files_of
from tests.benchmarks.study.test_report import NETWORK, cells, study, table


def row(mode: str, placement: str = "", *seconds: float, **changes: object) -> Row:
    plain = Row(
        mode, "prefill", "gpt2-8k", "float32", "cpu", NETWORK.name, 4096, tuple((each,) for each in seconds),
        len(seconds), placement=placement,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


ONE = row("one", "", 2.0, 4.0, 3.0)
GATHERED = row(
    "auto", "gathered", 1.0, 4.0, 1.5, peer_bytes={"kv_cache": 5_000_000, "activation": 1_000_000}, busy_s=9.75,
    foretold=Foretold(9, 0.9, 1.1, 1.0),
)  # fmt: skip
OFF = row("off", "spread", 4.0, 4.0, 4.0)
SPREAD = row("auto", "spread", 2.0, 2.0, 2.0)
AFTER = row("auto", "gathered", 0.1, 0.3, 0.2, phase="after")


def test_ratios_are_those_of_the_same_turn() -> None:
    found = table(study(ONE, GATHERED, OFF, SPREAD, AFTER, experiment="pipelines"), "pipelines")
    assert cells(found, "Caches") == ["gathered", "spread"]
    assert cells(found, "Times as fast as `one`") == ["2.00 x", "1.50 x"]
    assert cells(found, "Least to most") == ["1.00 to 2.00", "1.00 to 2.00"]
    assert cells(found, "two, `off`") == ["as `one`", "4.000 s"]
    assert cells(found, "Times as fast as `off`") == ["", "2.00 x"]
    assert cells(found, "Until all is done") == ["200.00 ms", "not measured"]
    assert cells(found, "Daemon to daemon (MB)") == ["2.0", "0.0"]
    assert cells(found, "Daemons busy (%)") == ["150", "not measured"]


def test_a_void_row_says_why_and_has_no_figures() -> None:
    void = msgspec.structs.replace(SPREAD, void="answer 0 of 3 is not that of one daemon")
    found = table(study(ONE, void, experiment="pipelines"), "pipelines")
    assert cells(found, "`one`") == ["void: answer 0 of 3 is not that of one daemon"]
    assert {len(line) for line in found.rows} == {len(found.columns)}


def test_what_was_foretold_stands_beside_what_it_took() -> None:
    found = table(study(ONE, GATHERED, experiment="pipelines"), "foretold")
    assert cells(found, "Cost model misses by") == ["-10.0 %"]
    assert cells(found, "With measured parts by") == ["+10.0 %"]


def test_tokens_after_a_prompt_have_rows_of_their_own() -> None:
    decode = row("auto", "gathered", phase="decode", seconds=((0.1, 0.3, 0.2),), steps=3, peer_bytes={"activation": 30})
    found = table(study(ONE, decode, experiment="pipelines"), "decoded")
    assert found.rows == (("gpt2-8k", "4,096 tokens", NETWORK.name, "auto", "gathered", "3", "200.00 ms", "10"),)


def test_predictions_are_a_table_of_their_own_that_says_so() -> None:
    one, two = (row(count, "", seconds, device="simulated") for count, seconds in (("1", 3.0), ("2", 2.0)))
    found = table(study(one, two, experiment="pipelines-predicted"), "predicted")
    assert found.note.startswith("PREDICTED, not measured")
    assert found.rows == (
        ("gpt2-8k", "4,096 tokens", NETWORK.name, "3.000 s", "2.000 s (1.50 x)", "not predicted", "not predicted"),
    )


def test_a_network_has_a_plot() -> None:
    files = files_of(study(ONE, GATHERED, OFF, SPREAD, experiment="pipelines"), "pipelines-cpu")
    plots = {name for name in files if not name.endswith(".md")}
    assert plots == {f"pipelines-cpu-speed-1gbit-1ms.{ending}" for ending in ("png", "svg")}
    assert all(len(files[name]) > 1000 for name in plots)
