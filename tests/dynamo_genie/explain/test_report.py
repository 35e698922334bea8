"""Plan and report of a graph on two devices, made without a daemon: right numbers, escaped text, nothing fetched."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from dynamo_genie.explain.plan_text import plan_text
from dynamo_genie.explain.records import from_json, to_json
from dynamo_genie.explain.report_html import report_html
from dynamo_genie.explain.story import GraphStory
from dynamo_genie.explain.terminal import render
from dynamo_genie.observe import CallTraffic
from dynamo_genie.passes.graphs.semantics import Facts, Phase, Role, annotate
from dynamo_genie.passes.placement.plan import Cut, DeviceLoad, Partition, PlacementPlan
from dynamo_genie.passes.placement.topology import Device, Topology
from dynamo_genie.passes.understanding.analysis import Analysis
from tests.captured import capture
from tests.report_page import Tables

EVIL = "<script>alert('&\"')</script>"
DEVICES = ("tcp://a:1", "tcp://b:2")


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


@pytest.fixture
def gm() -> GraphModule:
    run, captured = capture(Tower())
    with torch.no_grad():
        run(torch.ones(2, 4))
    graph = captured.forward[0]
    for node in graph.graph.find_nodes(op="placeholder")[:-1]:
        annotate({node: Facts(role=Role.WEIGHT, evidence=(EVIL,))})
    return graph


def two_device_plan(gm: GraphModule) -> PlacementPlan:
    names = [node.name for node in gm.graph.nodes if node.op == "call_function"]
    inputs = tuple(node.name for node in gm.graph.find_nodes(op="placeholder"))
    half = len(names) // 2
    parts = (
        Partition(0, DEVICES[0], 0, tuple(names[:half]), inputs, (names[half - 1],)),
        Partition(1, DEVICES[1], 1, tuple(names[half:]), (names[half - 1],), (names[-1],)),
    )
    cut = Cut(names[half - 1], *DEVICES, 32, "activation")
    loads = tuple(DeviceLoad(device, 160, 0, 1e-3) for device in DEVICES)
    return PlacementPlan("semantic", parts, (cut,), loads, 2.5e-3, (f"because of {EVIL}",))


@pytest.fixture
def story(gm: GraphModule) -> GraphStory:
    story = GraphStory("0_0_inference", "0/0", "inference")
    story.analysed(gm, Analysis(Phase.ENCODE, (EVIL,), (), ()))
    plan = two_device_plan(gm)
    topology = Topology(tuple(Device(name, 1 << 30, math.nan, math.nan) for name in DEVICES), ())
    for calls in range(3):
        story.placed(plan, topology, CallTraffic({"control": 50, "input": 1000}, {}, {"activation": 32}, 2.5e-3))
        measured = {"control": 51, "input": 1000 + calls}
        story.called(plan, CallTraffic(measured, {"output": 4}, {"activation": 32}, 1e-3))
    return story


def page_of(story: GraphStory) -> str:
    picture = story.picture()
    assert picture is not None
    return report_html(story.report(), picture)


def test_the_plan_survives_its_file(story: GraphStory) -> None:
    assert from_json(to_json(story.report())) == story.report()


def test_the_traffic_table_shows_what_the_plan_holds(story: GraphStory) -> None:
    rows = Tables(page_of(story)).tables["traffic-0"][1:]
    assert rows == [
        ["client -> daemons", "control", "50", "51", "-2.0 %"],
        ["client -> daemons", "input", "1,000", "1,002", "-0.2 %"],
        ["client -> daemons", "total", "1,050", "1,053", "-0.3 %"],
        ["daemons -> client", "output", "0", "4", "-100.0 %"],
        ["daemons -> client", "total", "0", "4", "-100.0 %"],
        ["daemon -> daemon", "activation", "32", "32", "0.0 %"],
        ["daemon -> daemon", "total", "32", "32", "0.0 %"],
    ]


def test_the_cut_and_both_devices_are_on_the_picture(story: GraphStory) -> None:
    page = page_of(story)
    assert page.count('class="arrow cut"') == 1
    assert re.search(r'class="cut-label"[^>]*>32 B<', page)
    assert "device-0" in page and "device-1" in page
    assert Tables(page).tables["cuts-0"][1][2:] == ["32", *DEVICES]


def test_each_layer_is_a_box(story: GraphStory) -> None:
    names = [group.name for group in story.report().groups]
    assert names == ["inputs of the call", "layers.0", "layers.1", "layers.2", "layers.3", "results"]


def test_text_is_escaped(story: GraphStory) -> None:
    page = page_of(story)
    assert EVIL not in page
    assert page.count("<script>") == 1  # ours
    assert page.count("&lt;script&gt;") >= 3


def test_the_page_needs_nothing_beside_itself(story: GraphStory) -> None:
    page = page_of(story)
    assert Tables(page).fetched == []
    assert "@import" not in page and "url(http" not in page


def test_the_page_is_the_same_for_the_same_story(story: GraphStory) -> None:
    assert page_of(story) == page_of(story)


def test_text_and_terminal_hold_the_same_numbers(story: GraphStory) -> None:
    from io import StringIO

    from dynamo_genie.bench.report import make_console

    console = make_console(out := StringIO())
    console.print(render([story.report()]))
    for text in (plan_text(story.report()), out.getvalue()):
        for number in ("1,050", "1,053", "2.5 ms", "encode"):
            assert number in text


def test_a_graph_that_was_never_called_has_a_report_too(gm: GraphModule) -> None:
    story = GraphStory("0_0_inference", "0/0", "inference")
    story.analysed(gm, Analysis(Phase.OTHER, (), (), ()))
    assert "Graph 0_0_inference" in page_of(story)
    assert "KV caches 0" in plan_text(story.report())
