"""Training in the study: what is measured, what a tensor subclass that does nothing changes, and what tables say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from dynamo_genie.bench.study.orders import Setup
from dynamo_genie.bench.study.plan import Group, training_groups
from dynamo_genie.bench.study.records import Row, Wire
from dynamo_genie.bench.study.report.document import tables_of
from dynamo_genie.bench.study.training import Training, training_of
from dynamo_genie.bench.study.wrapped import Wrapped, wrap_parameters
from dynamo_genie.cli import bench_runs
from dynamo_genie.errors import GenieError, OptionError
from tests.benchmarks.study.test_report import NETWORK, cells, study, table

STEPS = 3


def setup_of(mode: str, model: str = "tiny-gpt2") -> Setup:
    return Setup(mode, {}, model, "float32", "cpu", 16, 1, 0, 2, own_interfaces=False, task="train-eager", batch=2)


def trained(mode: str) -> Training:
    work, parameters = training_of(setup_of(mode))
    assert parameters > 100_000
    for _ in range(STEPS):
        work.step("train-eager")
    return work


def test_a_subclass_that_does_nothing_changes_no_bit_of_a_loss() -> None:
    plain, wrapped = trained("local"), trained("wrapped")
    assert plain.answer == wrapped.answer
    assert len(set(plain.answer)) == STEPS, "the model learns"
    assert plain.operators > 100
    assert wrapped.operators == 0


def test_every_operator_passes_the_subclass_and_tied_parameters_stay_tied() -> None:
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.weight = first.weight
    model = torch.nn.Sequential(first, second)
    wrap_parameters(model)
    assert first.weight is second.weight
    assert len(list(model.parameters())) == 3
    result = model(torch.ones(2, 3)).sum()
    assert type(result) is Wrapped
    result.backward()
    assert all(type(parameter.grad) is Wrapped for parameter in model.parameters())


def test_a_model_that_is_not_known_is_named_with_those_that_are() -> None:
    with pytest.raises(GenieError, match="no model 'gpt5' to train; there are gpt2, gpt2-96"):
        training_of(setup_of("local", "gpt5"))


def measured(group: Group) -> tuple[str, str, str, list[str]]:
    return group.network, group.model, group.task, [member.mode for member in group.members]


def test_compiled_and_eager_steps_are_measured_on_each_network_and_operators_on_the_last() -> None:
    groups = training_groups(("1gbit", "10gbit"), "tiny", 4, 128, ("naive", "resident", "wrapped"))
    assert list(map(measured, groups)) == [
        ("1gbit", "tiny-gpt2", "train", ["local", "naive", "resident"]),
        ("1gbit", "tiny-gpt2", "train-eager", ["local", "resident"]),
        ("10gbit", "tiny-gpt2", "train", ["local", "naive", "resident"]),
        ("10gbit", "tiny-gpt2", "train-eager", ["local", "resident"]),
        ("10gbit", "tiny-gpt2-96", "train-eager", ["local", "wrapped", "resident"]),
    ]
    assert {(group.batch, group.prompt) for group in groups} == {(4, 128)}
    assert [group.steps for group in groups] == [0, 0, 0, 0, 10]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": "1b"}, "--size '1b': write 124m or tiny"),
        ({"modes": "semantic"}, "--modes: no mode semantic; there are local, naive, wrapped, resident"),
        ({"networks": " ; "}, "--networks: name one"),
    ],
    ids=["size", "modes", "networks"],
)
def test_what_cannot_be_measured_is_refused(changed: dict[str, str], message: str) -> None:
    given = {"quick": False, "size": "tiny", "networks": "loopback", "modes": "resident", "batch": 1, "prompt": 8}
    with pytest.raises(OptionError, match=message):
        bench_runs.training(SimpleNamespace(**{**given, **changed}))


def test_quick_takes_the_small_model_and_two_repeats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(bench_runs, "_carry_out", lambda *rest: taken.append(rest))
    bench_runs.training(
        SimpleNamespace(
            quick=True, size="124m", networks="loopback", modes="local,resident", batch=4, prompt=128, repeats=5
        )
    )
    [(name, given, groups)] = taken
    assert (name, given.repeats) == ("training", 2)
    assert {group.model for group in groups} == {"tiny-gpt2", "tiny-gpt2-96"}


def row(mode: str, phase: str, *seconds: float, **changes: object) -> Row:
    plain = Row(
        mode, phase, "gpt2", "float32", "cpu", NETWORK.name, 128, tuple((each,) for each in seconds), len(seconds),
        batch=4,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


LOCAL = row("local", "train", 1.0, 4.0, 2.0)
RESIDENT = row(
    "resident", "train", 1.1, 4.0, 2.08, sent={"control": 30_000}, received={"output": 12},
    wire=Wire(33_000, 100, 10, 10, 3000, 88),
)  # fmt: skip
EAGER = row("local", "train-eager", 1.0, 1.0, operators=1000)
WRAPPED = row("wrapped", "train-eager", 1.02, 1.02)
SLOW = row("resident", "train-eager", 1.4, 1.5, sent={"control": 90_000})


def test_a_step_stands_beside_the_local_one_of_the_same_turns_and_beside_its_aims() -> None:
    found = table(study(LOCAL, RESIDENT, EAGER, WRAPPED, SLOW, experiment="training"), "training")
    assert list(zip(cells(found, "Code"), cells(found, "Mode"), strict=True)) == [
        ("compiled", "local"), ("compiled", "resident"), ("eager", "local"), ("eager", "resident"),
    ]  # fmt: skip
    assert cells(found, "Local step, the floor") == ["2.000 s", "2.000 s", "1.000 s", "1.000 s"]
    assert cells(found, "Times the floor") == ["1.000 x", "1.040 x", "1.000 x", "1.450 x"]
    assert cells(found, "Least to most") == ["1.00 to 1.00", "1.00 to 1.10", "1.00 to 1.00", "1.40 to 1.50"]
    assert cells(found, "Aim") == ["", "<= 1.05 x met", "", "<= 1.3 x **NOT met**"]
    assert cells(found, "Bytes a step") == ["0", "10,004", "0", "45,000"]
    assert cells(found, "By the kernel") == ["not measured", "10,004", "not measured", "not measured"]
    assert cells(found, "Aim (bytes)") == ["", "<= 20,000 met", "", ""]
    assert cells(found, "Tokens/s")[2] == "512.0"


def test_an_aim_in_bytes_is_met_by_both_counts_or_not_at_all() -> None:
    more = msgspec.structs.replace(RESIDENT, wire=Wire(63_000, 100, 10, 10, 0, 0))
    found = table(study(LOCAL, more, experiment="training"), "training")
    assert cells(found, "Aim (bytes)")[1] == "<= 20,000 **NOT met**"


def test_an_operator_stands_beside_one_of_the_subclass_that_does_nothing() -> None:
    found = table(study(EAGER, WRAPPED, SLOW, experiment="training"), "operators")
    assert cells(found, "Mode") == ["local", "wrapped", "resident"]
    assert cells(found, "Added to local, an operator") == ["0", "20 us", "450 us"]
    assert cells(found, "Times the floor, `wrapped`") == ["", "1.00 x", "22.50 x"]


def test_a_row_with_other_losses_is_void_and_has_no_figures() -> None:
    void = msgspec.structs.replace(RESIDENT, void="answer 0 of 1 is 7, and 8 in mode local")
    found = table(study(LOCAL, void, experiment="training"), "training")
    assert [line[4] for line in found.rows] == ["2.000 s", "void: answer 0 of 1 is 7, and 8 in mode local"]
    assert {len(line) for line in found.rows} == {len(found.columns)}


def test_without_a_local_row_there_is_nothing_to_compare() -> None:
    assert [found.rows for found in tables_of(study(RESIDENT, experiment="training"))[:2]] == [(), ()]
