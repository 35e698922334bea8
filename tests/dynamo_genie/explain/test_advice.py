"""What is said of a program that trains a model on the CPU, from the reports of its graphs."""

from __future__ import annotations

import pytest

from dynamo_genie.explain.advice import training_advice
from dynamo_genie.explain.records import GraphReport, PlacementReport, Traffic


def report(kind: str, compile_id: str, received: dict[str, int]) -> GraphReport:
    placement = PlacementReport("semantic", (), (), (), (), Traffic({}, received, {}), None)
    return GraphReport(f"{compile_id}_{kind}", compile_id, kind, None, (), 1, None, {}, (), (), (placement,))


def test_gradients_that_come_back_are_counted_twice_for_the_parameters_that_go_out() -> None:
    text = training_advice([report("forward", "0/0", {"output": 4}), report("backward", "0/0", {"gradient": 2048})])
    assert "2.0 KiB of gradients come back" in text
    assert "(4,096 B together)" in text
    assert 'model.to("remote_accelerator:0")' in text


def test_graphs_of_one_frame_are_one_step_and_those_of_several_frames_add_up() -> None:
    again = [report("backward", "0/0", {"gradient": 100}), report("backward", "0/1", {"gradient": 300})]
    assert "(600 B together)" in training_advice(again)
    assert "(1,000 B together)" in training_advice([*again, report("backward", "2/0", {"gradient": 200})])


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [report("inference", "0/0", {"output": 400})],
        [report("forward", "0/0", {"output": 4}), report("backward", "0/0", {"control": 22})],
    ],
    ids=["no graph", "inference", "on the device"],
)
def test_nothing_is_said_where_no_gradient_comes_back(reports: list[GraphReport]) -> None:
    assert training_advice(reports) == ""
