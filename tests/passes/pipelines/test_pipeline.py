"""Pipelines that are proposed: for which inputs, in which pieces, on which devices, and when one daemon is as good."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role, annotate
from dynamo_genie.passes.pipelines.pipeline import (
    MOST_PIECES,
    Proposals,
    evenly,
    propose_pipelines,
    token_boundaries,
)
from dynamo_genie.passes.pipelines.seeds import KERNEL_BLOCK, find_seeds
from dynamo_genie.passes.placement.placement import LEAST_GAIN, place
from dynamo_genie.passes.placement.topology import CLIENT, Device, Link, Topology
from dynamo_genie.passes.rows.template import Axis
from tests.passes.rows.in_pieces import trace

WIDTH = 64


def topology(devices: int, memory: int = 1 << 34, bytes_per_s: float = 1e10) -> Topology:
    """Devices of 100 MFLOP/s each: what they compute decides."""
    names = [f"device{i}" for i in range(devices)]
    ends = [CLIENT, *names]
    links = tuple(Link(a, b, 1e-5, bytes_per_s) for a in ends for b in ends if a != b)
    return Topology(tuple(Device(name, memory, 1e8, 1e12) for name in names), links)


def weighted(function: Callable[..., Any], *inputs: Tensor, weights: int) -> GraphModule:
    """The graph of a function whose last inputs are weights, with the facts that placement looks at."""
    gm = trace(function, inputs)
    placeholders = gm.graph.find_nodes(op="placeholder")
    for node in placeholders[len(placeholders) - weights :]:
        annotate({node: Facts(role=Role.WEIGHT, residency=Residency.PERSISTENT)})
    return gm


def two_products(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return ((x @ one).relu() @ other).tanh()


def batch(rows: int) -> GraphModule:
    w = torch.randn(WIDTH, WIDTH)
    return weighted(two_products, torch.randn(rows, WIDTH), w, w.clone(), weights=2)


def prompt(tokens: int) -> GraphModule:
    """Two causal attentions over a prompt, whose keys are results."""

    def run(x: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        results = []
        for weight in (one, other):
            keys = (x @ weight).view(1, tokens, 4, WIDTH // 4).transpose(1, 2)
            seen = torch.nn.functional.scaled_dot_product_attention(keys, keys, keys, is_causal=True)
            x = x + seen.transpose(1, 2).reshape(1, tokens, WIDTH)
            results.append(keys)
        return (x[:, -1], *results)

    w = torch.randn(WIDTH, WIDTH)
    gm = weighted(run, torch.randn(1, tokens, WIDTH), w, w.clone(), weights=2)
    annotate({node: Facts(role=Role.KV_CACHE) for node in result_nodes(gm)[1:]})
    return gm


def proposed(gm: GraphModule, place_on: Topology) -> Proposals:
    homes: dict[str, frozenset[str]] = {}
    return propose_pipelines(gm, place_on, homes, place(gm, place_on, homes=homes))


def test_a_batch_is_shared_out_among_replicas() -> None:
    best = proposed(batch(4096), topology(2)).pipelines[0]
    assert [piece.rows for piece in best.cut.pieces] == [2048, 2048]
    assert {partition.device for partition in best.plan.partitions} == {"device0", "device1"}
    assert best.plan.reasons[0].startswith("replicas of the model, 2 pieces")
    whole = place(batch(4096), topology(1), homes={}).step_s
    assert best.plan.step_s == pytest.approx(whole / 2, rel=0.05)


def test_replicas_get_as_many_samples_as_they_are_fast() -> None:
    both = topology(2)
    slow = Device("device1", 1 << 34, 1e8 / 3, 1e12)
    uneven = Topology((both.devices[0], slow), both.links)
    best = proposed(batch(4096), uneven).pipelines[0]
    assert [piece.rows for piece in best.cut.pieces] == [3072, 1024]


def test_a_prompt_goes_through_stages_and_its_caches_are_gathered_where_the_model_fits() -> None:
    best = proposed(prompt(2048), topology(2)).pipelines[0]
    assert [piece.end for piece in best.cut.pieces] == [512, 1024, 1536, 2048]
    assert "its caches gathered on the last" in best.plan.reasons[0]
    assert best.plan.gathers is not None
    makers = {name: p.device for p in best.plan.partitions for name in p.outputs}
    caches = [node.name for node in result_nodes(best.cut.gm)[1:]]
    assert {makers[name] for name in caches} == {best.plan.gathers}


def test_caches_stay_where_they_are_made_where_the_model_fits_on_no_device() -> None:
    cache = 2048 * WIDTH * 4
    found = proposed(prompt(2048), topology(2, memory=int(1.5 * cache) + 8 * WIDTH * WIDTH))
    best = found.pipelines[0]
    assert "its caches where they are made" in best.plan.reasons[0]
    assert best.plan.gathers is None
    makers = {name: p.device for p in best.plan.partitions for name in p.outputs}
    assert len({makers[node.name] for node in result_nodes(best.cut.gm)[1:]}) == 2


def test_pieces_are_sent_in_turn() -> None:
    plan = proposed(prompt(2048), topology(2)).pipelines[0].plan
    devices = [partition.device for partition in plan.partitions]
    assert devices[:4] in (["device0", "device1"] * 2, ["device1", "device0"] * 2)
    seen: set[str] = {node.name for node in prompt(2048).graph.find_nodes(op="placeholder")}
    for partition in plan.partitions:
        assert seen.issuperset(partition.inputs)
        seen.update(partition.outputs)


def test_a_slow_link_leaves_the_call_whole_and_says_so() -> None:
    found = proposed(prompt(2048), topology(2, bytes_per_s=1e5))
    assert found.pipelines == ()
    assert any(f"would save less than {LEAST_GAIN:.0%}" in reason for reason in found.reasons)


def test_one_device_is_no_pipeline() -> None:
    assert proposed(prompt(2048), topology(1)) == Proposals((), ())


def test_four_devices_are_used_and_a_plan_is_the_same_each_time() -> None:
    one, other = (proposed(batch(4096), topology(4)) for _ in range(2))
    assert {partition.device for partition in one.pipelines[0].plan.partitions} == {f"device{i}" for i in range(4)}
    assert [each.plan for each in one.pipelines] == [each.plan for each in other.pipelines]


def test_seeds_are_inputs_of_the_call_with_enough_rows() -> None:
    gm = prompt(2048)
    assert [(s.what, s.rows, list(s.axes.values())) for s in find_seeds(gm)] == [("tokens", 2048, [Axis(1)])]
    assert find_seeds(prompt(512)) == ()
    gm = batch(16)
    assert [(s.what, s.rows) for s in find_seeds(gm)] == [("samples", 16)]
    annotate({gm.graph.find_nodes(op="placeholder")[0]: Facts(role=Role.KV_CACHE)})
    assert find_seeds(gm) == ()


@pytest.mark.parametrize("rows", [1024, 1030, 1500, 4000, 4096, 8192, 8193, 100_000])
def test_boundaries_of_a_prompt_are_multiples_of_the_block_and_few(rows: int) -> None:
    ends = token_boundaries(rows)
    assert ends[0] == 0
    assert ends[-1] == rows
    assert all(end % KERNEL_BLOCK == 0 for end in ends[:-1])
    assert all(a < b for a, b in pairwise(ends))
    assert 2 <= len(ends) - 1 <= MOST_PIECES
    assert ends[-1] - ends[-2] >= 4


def test_even_boundaries() -> None:
    assert evenly(10, 4) == [0, 2, 5, 7, 10]
