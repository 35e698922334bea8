"""Where parts of a graph run: as fast as the devices and links allow, within their memory, and the same every time."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, GraphModule

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.passes.graphs.graph_view import is_attention
from dynamo_genie.passes.graphs.semantics import Role, facts_of
from dynamo_genie.passes.placement.contraction import contract
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import PlacementPlan, Policy
from dynamo_genie.passes.placement.replication import find_replicable
from dynamo_genie.passes.placement.semantic_graph import semantic_graph
from tests.captured import capture
from tests.integration.models import VOCAB, image_prompt, make_model, token_prompt
from tests.placed import (
    PLENTY,
    Daemons,
    check_plan,
    make_topology,
    prepare,
    run_in_partitions,
    scattered_homes,
    weight_nbytes,
)  # fmt: skip
from tests.random_graphs import NBYTES, graphs, topologies

aten = torch.ops.aten


def captured(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> GraphModule:
    kept: list[GraphModule] = []

    def look(gm: GraphModule) -> GraphModule:
        kept.append(prepare(gm)[0])
        return gm

    model.forward, _ = capture(model.forward, look)
    with torch.no_grad():
        model(**inputs)
    return kept[0]


def linears(n: int, width: int = 32) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    layers = (layer for _ in range(n) for layer in (nn.Linear(width, width), nn.ReLU()))
    return nn.Sequential(*layers), {"input": torch.randn(3, width)}


def device_of(plan: PlacementPlan, name: str) -> str:
    return next(partition.device for partition in plan.partitions if name in partition.nodes)


# --- decoders and their caches ---


def decode_plans(policy: Policy, seed: int = 0) -> list[tuple[GraphModule, PlacementPlan]]:
    """Generate with a GPT-2 of 12 layers on two devices that hold 60 % of its weights each; leave out the prefill."""
    model = make_model("gpt2", n_layer=12)
    daemons = Daemons(lambda weights: (weights * 6 // 10,) * 2, policy, seed)
    expected = model.generate(**token_prompt(length=6).inputs, max_new_tokens=4, do_sample=False)
    model.forward, _ = capture(model.forward, daemons)
    assert torch.equal(model.generate(**token_prompt(length=6).inputs, max_new_tokens=4, do_sample=False), expected)
    return daemons.seen[1:]


def test_a_decoder_too_large_for_one_device_sends_one_hidden_state_and_no_cache() -> None:
    for gm, plan in decode_plans("semantic"):
        directions = [(cut.source, cut.target) for cut in plan.cuts]
        assert 1 <= len(directions) == len(set(directions))
        assert all(cut.nbytes == 32 * 4 and cut.role != "kv_cache" for cut in plan.cuts)
        assert {partition.device for partition in plan.partitions} == {"a", "b"}
        for attention in filter(is_attention, gm.graph.nodes):
            caches = [node for node in attention.args[1:3] if node.target is aten.cat.default]
            assert len(caches) == 2
            assert {device_of(plan, node.name) for node in caches} == {device_of(plan, attention.name)}


def test_what_knows_nothing_of_caches_moves_them() -> None:
    for gm, plan in decode_plans("blind", seed=1):
        caches = {node.name for node in gm.graph.nodes if facts_of(node).role is Role.KV_CACHE}
        moved = [cut for cut in plan.cuts if cut.value in caches]
        assert len(moved) >= 6
        assert sum(cut.nbytes for cut in moved) > 0


def test_relative_positions_and_masks_are_made_anew_and_do_not_cross() -> None:
    inputs = {**token_prompt().inputs, "decoder_input_ids": token_prompt(length=4).inputs["input_ids"]}
    gm = captured(make_model("t5"), inputs)
    plan = place(gm, make_topology((weight_nbytes(gm) // 3,) * 4), homes={})
    hidden = {9 * 32 * 4, 4 * 32 * 4}  # tokens of the encoder and the decoder, 32 numbers each
    assert {cut.nbytes for cut in plan.cuts} <= hidden
    looked_up = {node.name for node in gm.graph.nodes if node.target is aten.embedding.default}
    made_in = {name: [part.index for part in plan.partitions if name in part.nodes] for name in looked_up}
    assert any(len(parts) > 1 for parts in made_in.values())  # the table of relative positions


# --- branches ---


def test_two_towers_run_at_the_same_time_when_links_are_fast() -> None:
    gm = captured(make_model("clip"), {**token_prompt(batch=2).inputs, **image_prompt().inputs})
    slow = dict(flops_per_s=1e8, memory_bytes_per_s=1e8)
    fast = place(gm, make_topology((PLENTY, PLENTY), latency_s=1e-6, link_bytes_per_s=1e11, **slow), homes={})
    assert [(part.stage, part.device) for part in fast.partitions[:2]] == [(0, "a"), (0, "b")]
    convolution = next(node.name for node in gm.graph.nodes if node.target is aten.convolution.default)
    looked_up = [node for node in gm.graph.nodes if node.target is aten.embedding.default]
    tokens = next(node.name for node in looked_up if len(node.args[0].meta["val"]) == VOCAB)
    assert device_of(fast, convolution) != device_of(fast, tokens)
    alone = place(gm, make_topology((PLENTY,), **slow), homes={})
    assert fast.step_s < 0.8 * alone.step_s


def test_two_towers_stay_together_when_links_are_slow() -> None:
    gm = captured(make_model("clip"), {**token_prompt(batch=2).inputs, **image_prompt().inputs})
    plan = place(gm, make_topology((PLENTY, PLENTY), latency_s=1.0), homes={})
    assert len(plan.partitions) == 1 and not plan.cuts


# --- devices, memory, uploads ---


def test_the_faster_device_is_taken_and_the_plan_says_what_it_costs() -> None:
    gm = captured(*linears(4))
    topology = make_topology((PLENTY, PLENTY))
    slow, fast = topology.devices
    slow = type(slow)(slow.name, slow.memory_nbytes, slow.flops_per_s / 1e4, slow.bytes_per_s / 1e4)
    plan = place(gm, type(topology)((slow, fast), topology.links), homes={})
    assert [part.device for part in plan.partitions] == ["b"]
    assert [load.weight_nbytes for load in plan.loads] == [0, weight_nbytes(gm)]
    assert plan.loads[0].busy_s == 0 < plan.loads[1].busy_s < plan.step_s
    assert "all on b" in plan.reasons[0]


def test_weights_that_are_somewhere_already_are_used_there() -> None:
    gm = captured(*linears(4))
    homes = {node.name: frozenset({"b"}) for node in gm.graph.find_nodes(op="placeholder") if facts_of(node).residency}
    plan = place(
        gm, make_topology((PLENTY, PLENTY)), homes={k: v for k, v in homes.items() if "primals" in k or "arg" in k}
    )
    assert [part.device for part in plan.partitions] == ["b"]


def test_a_model_for_which_one_device_is_too_small_is_spread_in_order() -> None:
    gm = captured(*linears(6))
    result_nbytes = 3 * 32 * 4
    plan = place(gm, make_topology((weight_nbytes(gm) // 2 + result_nbytes,) * 3), homes={})
    assert [part.stage for part in plan.partitions] == [0, 1]
    assert [cut.nbytes for cut in plan.cuts] == [3 * 32 * 4]


@pytest.mark.parametrize("policy", ["semantic", "blind"])
def test_what_fits_nowhere_is_an_error_that_says_what_is_needed_and_what_is_there(policy: Policy) -> None:
    gm = captured(*linears(2, width=64))
    with pytest.raises(QuotaExceeded) as raised:
        place(gm, make_topology((10_000, 9_000)), homes={}, policy=policy)
    for words in ("32.5 KiB of weights", "cannot be divided 16.2 KiB", "a 9.8 KiB, b 8.8 KiB", "--memory-limit"):
        assert words in str(raised.value)


# --- what binds the hands of the search ---


def test_a_remote_input_is_written_where_it_lives() -> None:
    def model(state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        state.copy_(x @ x)
        return x.sin()

    kept: list[GraphModule] = []
    compiled, _ = capture(model, lambda gm: kept.append(prepare(gm)[0]) or gm)
    compiled(torch.randn(64, 64), torch.randn(64, 64))
    (writer,) = (node for node in kept[0].graph.nodes if node.target is aten.copy_.default)
    for policy, seed in (("semantic", 0), ("blind", 0), ("blind", 1), ("blind", 2)):
        topology, homes = make_topology((PLENTY,) * 3), {str(writer.args[0]): frozenset({"c"})}
        plan = place(kept[0], topology, homes=homes, policy=policy, seed=seed)
        check_plan(kept[0], plan, topology, homes)
        assert device_of(plan, writer.name) == "c"


def test_a_number_read_from_data_is_with_all_that_use_it() -> None:
    def model(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        n = (x @ w).sum().int().item()
        torch._check(n >= 0)
        torch._check(n < 8)
        return torch.arange(n).sum() + (x @ w @ w).sum() * n

    kept: list[GraphModule] = []
    compiled, _ = capture(model, lambda gm: kept.append(prepare(gm)[0]) or gm)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled(torch.ones(1, 1), torch.ones(1, 1) * 2)
    gm = kept[0]
    numbers = {node.name for node in gm.graph.nodes if isinstance(node.meta.get("val"), torch.SymInt)}
    assert numbers
    for seed in range(4):
        plan = place(gm, make_topology((PLENTY, PLENTY)), homes={}, policy="blind", seed=seed)
        assert not any(numbers & {*part.inputs, *part.outputs} for part in plan.partitions)


def test_a_check_that_nothing_reads_is_kept() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    y = graph.call_function(aten.mm.default, (x, x))
    positive = graph.call_function(aten.all.default, (y,))
    check = graph.call_function(aten._assert_async.default, (positive,))
    graph.output((y,))
    for node, value in ((x, torch.ones(2, 2)), (y, torch.ones(2, 2)), (positive, torch.tensor(True)), (check, None)):
        node.meta["val"] = value
    gm = GraphModule({}, graph)
    plan = place(gm, make_topology((PLENTY, PLENTY)), homes={})
    assert check.name in plan.partitions[0].nodes


def test_a_graph_that_computes_nothing_needs_no_partition() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.ones(2)
    graph.output((x,))
    gm = GraphModule({}, graph)
    plan = place(gm, make_topology((PLENTY,)), homes={})
    assert plan.partitions == () and plan.step_s == 0
    assert run_in_partitions(gm, plan)(7) == (7,)


def test_a_graph_that_only_returns_a_constant_has_one_partition_that_hands_it_on() -> None:
    graph = Graph()
    graph.output((graph.get_attr("held"),))
    gm = GraphModule({"held": torch.ones(2)}, graph)
    plan = place(gm, make_topology((PLENTY,)), homes={})
    assert [part.outputs for part in plan.partitions] == [("held",)]
    assert torch.equal(run_in_partitions(gm, plan)()[0], torch.ones(2))


def test_cheap_work_alone_runs_in_one_place() -> None:
    kept: list[GraphModule] = []
    compiled, _ = capture(lambda x: (x.sin() + 1, x.cos()), lambda gm: kept.append(prepare(gm)[0]) or gm)
    compiled(torch.randn(3))
    plan = place(kept[0], make_topology((PLENTY, PLENTY)), homes={}, policy="blind")
    assert len(plan.partitions) == 1


# --- laws ---


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), topologies(), st.integers(0, 3), st.sampled_from(["semantic", "blind"]))
def test_every_plan_is_whole_ordered_within_memory_and_equal_to_one_piece(
    gm: GraphModule, topology: Any, seed: int, policy: Policy
) -> None:
    homes = scattered_homes(gm.graph.find_nodes(op="placeholder"), topology, seed) if seed else {}
    try:
        plan = place(gm, topology, homes=homes, policy=policy, seed=seed)
    except QuotaExceeded:
        read = [node for node in gm.graph.find_nodes(op="placeholder") if facts_of(node).residency and node.users]
        assert len(read) * NBYTES > max(device.memory_nbytes for device in topology.devices) or homes
        return
    check_plan(gm, plan, topology, homes)
    assert plan == place(gm, topology, homes=homes, policy=policy, seed=seed)
    inputs = [torch.randn(node.meta["val"].shape) for node in gm.graph.find_nodes(op="placeholder")]
    twins = [each.clone() for each in inputs]
    torch.manual_seed(1)
    expected = gm(*inputs)
    torch.manual_seed(1)
    actual = run_in_partitions(gm, plan, seed)(*twins)
    for one, other in zip((*expected, *inputs), (*actual, *twins), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_units_grow_by_as_many_for_each_layer() -> None:
    counts = []
    for n_layer in (2, 4, 6):
        graph = semantic_graph(captured(make_model("gpt2", n_layer=n_layer), token_prompt().inputs))
        counts.append(len(contract(graph, find_replicable(graph, {}), {}, grouped=True)))
    assert counts[1] - counts[0] == counts[2] - counts[1] == 2 * 5  # four products and an attention a layer


@pytest.mark.slow
def test_another_process_with_other_hashes_makes_the_same_plan() -> None:
    program = "from tests.passes.placement.test_placement import print_plans; print_plans()"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hashes}
        ).stdout
        for hashes in ("1", "2", "3")
    }
    assert len(found) == 1


def print_plans() -> None:
    """Print the plans of a model with branches and caches; run in other processes."""
    gm = captured(make_model("clip"), {**token_prompt(batch=2).inputs, **image_prompt().inputs})
    for policy in ("semantic", "blind"):
        print(place(gm, make_topology((weight_nbytes(gm) * 2 // 3,) * 2), homes={}, policy=policy, seed=1))
