"""What the backend shows of real models: dumps, prediction against measurement, the report in a browser, the log."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.calls.watched import Watched
from dynamo_genie.child_process import child_environment
from dynamo_genie.explain import folders
from dynamo_genie.explain.plan_text import traffic_rows
from dynamo_genie.explain.records import GraphReport, Measurements, PlacementReport, Traffic, from_json
from tests.integration.fleets.fleets import fleet_of
from tests.integration.fleets.test_placement import generate, narrow_gpt2, remote_copy
from tests.integration.models import make_model, token_prompt
from tests.integration.study.browser import rendered
from tests.report_page import Tables

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about our dumps"),
]

TOLERANCE = 0.05

SCRIPT = """
import sys, torch
from tests.integration.models import image_prompt, make_model, token_prompt
name = sys.argv[1]
model = make_model(name)
model.forward = torch.compile(model.forward, backend="genie")
inputs = token_prompt(length=40).inputs
with torch.no_grad():
    if name == "gpt2":
        model.generate(**inputs, do_sample=False, max_new_tokens=12)
    else:
        inputs |= image_prompt(batch=1).inputs if name == "clip" else {}
        for _ in range(3):
            model(**inputs)
"""


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dumps of the three scripts, as `genie explain` leaves them, and what it printed beside them."""
    home = tmp_path_factory.mktemp("explained")
    (home / "script.py").write_text(SCRIPT)
    found = {}
    for name in ("gpt2", "bert", "clip"):
        found[name] = home / name
        command = [sys.executable, "-m", "dynamo_genie.cli", "explain", "--out", home / name, home / "script.py", name]
        root = str(Path(__file__).parents[3])
        environment = child_environment({**os.environ, "PYTHONPATH": root})
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        (home / name / "printed.txt").write_text(done.stdout)
    return found


def reports(folder: Path) -> list[GraphReport]:
    return [from_json(path.read_bytes()) for path in sorted(folder.glob("*/plan.json"))]


def measured(report: GraphReport) -> Measurements:
    [placement] = report.placements
    assert placement.measured is not None
    return placement.measured


def assert_close(predicted: Traffic, found: Traffic) -> None:
    for part in ("sent", "received", "between"):
        expected, actual = getattr(predicted, part), getattr(found, part)
        assert expected.keys() == actual.keys()
        for kind in actual:
            assert abs(expected[kind] - actual[kind]) <= TOLERANCE * actual[kind], (part, kind, expected, actual)
    assert abs(predicted.total - found.total) <= TOLERANCE * found.total


def test_a_decode_step_of_gpt2_moves_what_was_predicted_and_keeps_its_caches(dumps: dict[str, Path]) -> None:
    decode = reports(dumps["gpt2"])[-1]
    calls = measured(decode)
    assert calls.calls >= 8
    assert_close(calls.last.predicted, calls.last.measured)
    assert abs(calls.predicted_nbytes - calls.measured_nbytes) <= TOLERANCE * calls.measured_nbytes
    assert "kv_cache" not in calls.last.measured.sent
    assert len(decode.caches) == 4  # two layers, keys and values


@pytest.mark.parametrize("name", ["bert", "clip"])
def test_a_call_of_an_encoder_moves_what_was_predicted(name: str, dumps: dict[str, Path]) -> None:
    [report] = reports(dumps[name])
    calls = measured(report)
    assert calls.calls == 3
    assert_close(calls.last.predicted, calls.last.measured)
    assert report.caches == ()


def test_phases_are_those_of_the_models(dumps: dict[str, Path]) -> None:
    assert [report.phase for report in reports(dumps["gpt2"])] == ["prefill", "decode", "decode"]
    assert [report.phase for report in reports(dumps["bert"])] == ["encode"]
    assert reports(dumps["clip"])[0].phase in ("encode", "vision")
    for folder in dumps.values():
        assert all(report.phase_evidence for report in reports(folder))


def test_the_table_names_every_graph_its_caches_and_its_bytes(dumps: dict[str, Path]) -> None:
    for folder in dumps.values():
        printed = (folder / "printed.txt").read_text()
        for report in reports(folder):
            assert report.name in printed
            assert f"{sum(measured(report).last.measured.sent.values()):,}" in printed
    assert "4 grown" in (dumps["gpt2"] / "printed.txt").read_text()


def test_each_pass_leaves_the_graph_in_numbered_files(dumps: dict[str, Path]) -> None:
    [folder] = (path.parent for path in dumps["bert"].glob("*/plan.json"))
    names = sorted(path.name for path in folder.glob("*.py"))
    assert names[:3] == ["00_captured.py", "01_effects.py", "02_copies.py"]
    assert [int(name[:2]) for name in names] == list(range(len(names)))
    assert {path.stem for path in folder.glob("[0-9]*.json")} == {Path(name).stem for name in names}
    assert (folder / "passes.json").is_file()
    assert "phase" in (folder / "plan.txt").read_text()


@pytest.mark.parametrize("name", ["gpt2", "bert", "clip"])
def test_the_report_in_a_browser_shows_the_numbers_of_the_plan(
    name: str, dumps: dict[str, Path], tmp_path: Path
) -> None:
    report = reports(dumps[name])[-1]
    page = Tables(rendered(dumps[name] / report.name / "report.html", tmp_path))
    calls = measured(report)
    shown = [row[1:4] for row in page.tables["traffic-0"][1:]]
    assert shown == [[kind, f"{p:,}", f"{found:,}"] for _, kind, p, found in traffic_rows(calls.last)]
    assert len(page.tables.get("caches", [[]])[1:]) == len(report.caches)
    nodes = sum(len(rows) - 1 for table, rows in page.tables.items() if table.startswith("nodes-"))
    assert nodes == report.n_nodes
    assert page.fetched == []


def test_a_step_of_training_sends_again_what_its_optimizer_changed(tmp_path: Path) -> None:
    model = make_model("bert", dropout=0.1).train()
    run = torch.compile(model, backend=genie, options={"debug_dir": str(tmp_path)})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for seed in range(4):  # plans are written after calls 1, 2 and 4
        run(**token_prompt(length=40, seed=seed).inputs).logits.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    forward, backward = (measured(report).last for report in reversed(reports(tmp_path)))
    assert forward.measured.sent["weight"] == forward.predicted.sent["weight"] > 0
    assert backward.measured.received["gradient"] == backward.predicted.received["gradient"] > 0
    for step in (forward, backward):
        assert abs(step.predicted.total - step.measured.total) <= TOLERANCE * step.measured.total


# --- dumping changes nothing ---------------------------------------------------------------------------------


def run_with(model: nn.Module, options: dict[str, Any]) -> list[torch.Tensor]:
    """Two training steps with dropout: results, gradients and where the generator stands after them."""
    torch._dynamo.reset()
    model = copy.deepcopy(model).train()
    run = torch.compile(model, backend=genie, options=options)
    torch.manual_seed(3)
    found = []
    for seed in range(2):
        logits = run(**token_prompt(seed=seed).inputs).logits
        logits.sum().backward()
        found.append(logits.detach() + 0)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*found, *gradients, torch.get_rng_state(), torch.rand(3)]


def test_dumping_changes_no_bit_of_a_result_a_gradient_or_the_generator(tmp_path: Path) -> None:
    model = make_model("bert", dropout=0.1)
    plain = run_with(model, {})
    dumped = run_with(model, {"debug_dir": str(tmp_path)})
    assert len(plain) == len(dumped) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, dumped, strict=True))
    kinds = {path.name.rpartition("_")[2] for path in tmp_path.iterdir()}
    assert kinds == {"forward", "backward"}


def test_a_dump_that_fails_midway_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("dynamo_genie.explain.dump.replace_text", no_space)
    x = torch.randn(3, 4)
    run = torch.compile(lambda x: x * 2, backend=genie, options={"debug_dir": str(tmp_path)})
    for _ in range(2):
        assert torch.equal(run(x) + 0, x * 2)


def test_off_nothing_watches_and_a_call_sends_what_it_always_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENIE_DEBUG_DIR", raising=False)
    for method in ("__init__", "__call__"):
        monkeypatch.setattr(Watched, method, lambda *_: pytest.fail("nobody asked for this"))
    monkeypatch.setattr(folders, "new_folder", lambda *_: pytest.fail("nobody asked for this"))
    run = torch.compile(lambda x: x + 1, backend=genie)
    run(torch.ones(3)).tolist()
    dynamo_genie.reset_stats()
    assert run(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    stats = dynamo_genie.stats()["total"]
    assert (stats["calls"], stats["fetches"], stats["round_trips"]) == (1, 1, 1)


def test_an_unwritable_folder_fails_the_compilation_with_a_clear_first_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = torch.compile(lambda x: x + 1, backend=genie, options={"debug_dir": str(tmp_path / "file" / "x")})
    with pytest.raises(Exception, match="cannot be written") as caught:
        run(torch.ones(3))
    assert isinstance(caught.value.inner_exception, dynamo_genie.errors.OptionError)  # type: ignore[attr-defined]


# --- log and trace -------------------------------------------------------------------------------------------

LOGGED = """
import torch
def step(query, key, value, past_key, past_value):
    key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value), key, value
with torch.no_grad():
    torch.compile(step, backend="genie")(*[torch.ones(1, 2, n, 8) for n in (1, 1, 1, 5, 5)])[0].sum().item()
"""


def logged(**environ: str) -> str:
    root = str(Path(__file__).parents[3])
    environment = child_environment({**os.environ, "PYTHONPATH": root, **environ})
    command = [sys.executable, "-c", LOGGED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_torch_logs_show_phase_caches_placement_and_bytes() -> None:
    log = logged(TORCH_LOGS="+dynamo_genie")
    for line in ("0_0_inference: 2 KV caches", "partition 0 runs", "a call should move", "call 1 moved sent"):
        assert line in log


def test_torch_logs_of_the_passes_show_passes_phase_and_caches_alone() -> None:
    log = logged(TORCH_LOGS="+dynamo_genie.passes")
    for line in ("portable: ", "0_0_inference: 2 KV caches", "0_0_inference: cache "):
        assert line in log
    assert "partition 0 runs" not in log


def test_the_plan_is_an_artifact_of_torchs_trace(tmp_path: Path) -> None:
    logged(TORCH_TRACE=str(tmp_path))
    [trace] = tmp_path.glob("*.log")
    text = trace.read_text()
    for name in ("genie_analysis_0_0_inference", "genie_plan_0_0_inference"):
        assert f'"name": "{name}"' in text


def test_a_model_on_two_daemons_moves_what_was_predicted(tmp_path: Path) -> None:
    model = narrow_gpt2()
    with fleet_of("3MB", "3MB") as fleet:
        remote = remote_copy(fleet, model, debug_dir=str(tmp_path))
        inputs = token_prompt(length=40).inputs
        assert torch.equal(generate(remote, inputs), generate(model, inputs))
        devices = set(fleet.endpoints)
    decode = reports(tmp_path)[-1]
    [placement] = decode.placements
    assert {partition.device for partition in placement.partitions} == devices
    assert {cut.role for cut in placement.cuts} <= {"activation", "token_ids"}
    assert placement.predicted_step_s is not None
    assert placement.predicted_step_s > 0
    calls = measured(decode)
    assert_close(calls.last.predicted, calls.last.measured)
    assert sum(calls.last.measured.between.values()) == sum(cut.nbytes for cut in placement.cuts) > 0
    assert_times_are_known(placement)


def assert_times_are_known(placement: PlacementReport) -> None:
    """Assert that every partition has a predicted and a measured time, and that none began before what it waits for."""
    assert placement.schedule is not None
    assert placement.measured is not None
    spans = placement.measured.spans
    where = [(partition.index, partition.device) for partition in placement.partitions]
    assert [(part.index, part.device) for part in placement.schedule.parts] == where
    assert [(span.partition, span.device) for span in spans] == where
    assert all(span.same_clock and 0 < span.start_s < span.end_s for span in spans)
    crossed = [each for each in placement.schedule.transfers if each.source != "client"]
    assert sorted((t.value, t.target, t.nbytes) for t in crossed) == sorted(
        (cut.value, cut.target, cut.nbytes) for cut in placement.cuts
    )
    handed_on = [(each.maker, reader) for each in crossed if each.maker is not None for reader in each.readers]
    assert handed_on
    assert all(spans[maker].end_s <= spans[reader].start_s for maker, reader in handed_on)


def test_the_example_of_the_page_leaves_a_report_and_a_trace_of_both_daemons(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "explain.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    [command] = re.findall(r"^GENIE_DAEMONS=\S+ genie (explain --out .*)$", page, re.MULTILINE)
    (tmp_path / "towers.py").write_text(script)
    with fleet_of("0", "0") as fleet:
        environment = child_environment({**os.environ, "GENIE_DAEMONS": ",".join(fleet.endpoints)})
        done = subprocess.run(
            [sys.executable, "-m", "dynamo_genie.cli", *command.split()],
            capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path, check=False,
        )  # fmt: skip
        devices = set(fleet.endpoints)
    assert done.returncode == 0, done.stderr
    [report] = reports(tmp_path / "plans")
    [placement] = report.placements
    assert {partition.device for partition in placement.partitions} == devices
    assert_times_are_known(placement)
    assert 'class="timeline"' in (tmp_path / "plans" / report.name / "report.html").read_text(encoding="utf-8")
    events = json.loads((tmp_path / "call.json").read_bytes())["traceEvents"]
    ran = [event["cat"] for event in events if event["name"].startswith("partition ")]
    assert ran == ["predicted"] * len(placement.partitions) + ["measured"] * len(placement.partitions)
