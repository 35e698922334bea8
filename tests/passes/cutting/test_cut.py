"""A graph cut around what no daemon runs: which calls the client takes, in how many turns, and what crosses."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule

from dynamo_genie.lowering import arguments, unrunnable
from dynamo_genie.lowering.unrunnable import find_unrunnable
from dynamo_genie.passes.cutting.crossings import client_costs, find_crossings
from dynamo_genie.passes.cutting.cut import DAEMONS, cut
from dynamo_genie.passes.placement.plan import Partition
from dynamo_genie.passes.placement.split import split
from dynamo_genie.passes.placement.topology import CLIENT
from dynamo_genie.tensors import WIRE_DTYPES
from tests.captured import capture
from tests.random_graphs import graphs

aten = torch.ops.aten


@torch.library.custom_op("genie_cut::own", mutates_args=())
def own(x: Tensor) -> Tensor:
    return x + 1


own.register_fake(torch.empty_like)

SQUARE, OTHER = torch.ones(4, 4), torch.ones(4, 4)


def graph_of(function: Callable[..., Any], *args: Any, dynamic: bool = False) -> GraphModule:
    with torch.no_grad():
        call, captured = capture(function, dynamic=dynamic)
        call(*args)
    [gm] = captured.graphs
    return gm


def cut_up(gm: GraphModule, *remote: int) -> tuple[Partition, ...]:
    """Cut a graph for a client that has all arguments but the ones at these positions."""
    inputs = gm.graph.find_nodes(op="placeholder")
    return cut(gm, find_unrunnable(gm) or {}, [node for i, node in enumerate(inputs) if i not in remote])


def run(gm: GraphModule, partitions: Sequence[Partition], *args: Any) -> list[Any]:
    """Run the partitions in their order, each on what earlier ones made."""
    inputs = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    values = dict(zip(inputs, args, strict=True))
    for partition, part in zip(partitions, split(gm, partitions), strict=True):
        values.update(zip(partition.outputs, part(*(values[name] for name in partition.inputs)), strict=True))
    returned: Any = gm.graph.output_node().args[0]
    return [values[node.name] for node in returned]


def operators(gm: GraphModule, partition: Partition) -> list[str]:
    targets = {node.name: str(node.target) for node in gm.graph.nodes}
    return [targets[name] for name in partition.nodes]


@pytest.mark.parametrize(
    ("function", "turns"),
    [
        (lambda x: own(x) @ x, [CLIENT, DAEMONS]),
        (lambda x: own(x @ x), [DAEMONS, CLIENT]),
        (lambda x: own(x @ x) @ x, [DAEMONS, CLIENT, DAEMONS]),
        (lambda x: own(x @ x) + own(x.t() @ x), [DAEMONS, CLIENT, DAEMONS]),
        (lambda x: own(own(x @ x) * 2 - 1) @ x, [DAEMONS, CLIENT, DAEMONS]),
        (lambda x: own(own(x @ x) @ x) @ x, [DAEMONS, CLIENT, DAEMONS, CLIENT, DAEMONS]),
        (lambda x: (x @ x) @ own(x), [CLIENT, DAEMONS]),
        (lambda x: own(own(x)), [CLIENT]),
        (lambda x: x @ x, [DAEMONS]),
    ],
)
def test_turns_are_as_few_as_data_allows(function: Callable[..., Any], turns: list[str]) -> None:
    gm = graph_of(function, SQUARE)
    partitions = cut_up(gm)
    assert [partition.device for partition in partitions] == turns
    assert [partition.index for partition in partitions] == list(range(len(turns)))
    assert all(map(torch.equal, run(gm, partitions, SQUARE), gm(SQUARE)))


def test_what_only_the_client_needs_of_its_own_tensors_it_makes_itself() -> None:
    gm = graph_of(lambda x, w: own(x.t() * 2) @ w + own(w.t()), SQUARE, OTHER)
    client, daemons = cut_up(gm)
    assert (client.device, daemons.device) == (CLIENT, DAEMONS)
    assert sorted(client.inputs) == sorted(node.name for node in gm.graph.find_nodes(op="placeholder"))
    assert "aten.mul.Tensor" in operators(gm, client)
    # of a remote argument, the view is fetched and not the whole
    first, client, _ = cut_up(gm, 0, 1)
    assert set(client.inputs) == set(first.outputs)
    assert operators(gm, client) == ["genie_cut.own.default"] * 2


def test_a_view_of_what_the_client_made_is_a_result_there_and_made_anew_in_the_daemon() -> None:
    def views(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = own(x @ x)
        return made, made.t(), made.t() @ x

    gm = graph_of(views, SQUARE)
    _, client, last = cut_up(gm)
    made, turned, product = (node.name for node in gm.graph.output_node().args[0])
    assert client.outputs == (made, turned)
    assert turned in client.nodes
    assert operators(gm, last) == ["aten.t.default", "aten.mm.default"]
    assert made in last.inputs and turned not in last.inputs
    assert last.outputs == (product,)
    found = run(gm, cut_up(gm), SQUARE)
    assert found[0].data_ptr() == found[1].data_ptr()


def test_sizes_cross_as_numbers_and_their_tensors_do_not() -> None:
    gm = graph_of(lambda x: own(x.new_ones(torch.cat([x, x]).shape[0] + 1)) * 2, torch.ones(3, 4), dynamic=True)
    partitions = cut_up(gm)
    assert [p.device for p in partitions] == [CLIENT, DAEMONS]
    assert not any("cat" in name for p in partitions for name in p.inputs)


def test_random_numbers_keep_their_order_on_both_sides() -> None:
    gm = graph_of(lambda x: (torch.rand(3), own(x), torch.rand(3), own(x)), SQUARE)
    partitions = cut_up(gm)
    assert [p.device for p in partitions] == [DAEMONS, CLIENT, DAEMONS, CLIENT]
    assert [name for p in partitions for name in p.nodes] == [
        node.name for node in gm.graph.nodes if node.op == "call_function"
    ]


def test_a_write_waits_for_those_who_read_what_was_there() -> None:
    def write(x: Tensor, w: Tensor) -> Tensor:
        before = w @ x
        w.copy_(own(x @ x))
        return before

    gm = graph_of(write, SQUARE, OTHER)
    [copy] = gm.graph.find_nodes(op="call_function", target=aten.copy_.default)
    partitions = cut_up(gm)
    assert [p.device for p in partitions] == [DAEMONS, CLIENT]
    assert copy.name in partitions[1].nodes  # into a tensor of the client: it needs no daemon
    there = cut_up(gm, *range(2))
    assert [p.device for p in there] == [DAEMONS, CLIENT, DAEMONS]
    assert copy.name in there[2].nodes


def test_what_nobody_needs_early_is_made_late() -> None:
    gm = graph_of(lambda x, w: own(x @ x) @ (w.double().float() @ w), SQUARE, OTHER)
    first, _, last = cut_up(gm)
    assert operators(gm, first) == ["aten.mm.default"]
    assert operators(gm, last).count("aten._to_copy.default") == 2


def test_a_view_of_a_weight_is_a_result_of_the_turn_that_reads_the_weight() -> None:
    gm = graph_of(lambda x, w: own(x @ x) @ w.t(), SQUARE, OTHER)
    [view] = gm.graph.find_nodes(op="call_function", target=aten.t.default)
    output = gm.graph.output_node()
    output.args = ((*output.args[0], view),)  # as a forward does that saves it for its backward
    first, _, last = cut_up(gm)
    assert len(first.inputs) == 1
    assert set(last.outputs) == {node.name for node in output.args[0]}


def test_a_number_that_the_client_needs_is_read_by_the_client() -> None:
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        gm = graph_of(lambda x: own(x @ x).sum() * (x @ x).sum().item() + own(x * x.sum().item()), SQUARE)
    partitions = cut_up(gm)
    readers = [p for p in partitions if "aten._local_scalar_dense.default" in operators(gm, p)]
    assert all(p.device == CLIENT for p in readers if p is not partitions[-1])
    assert torch.equal(run(gm, partitions, SQUARE)[0], gm(SQUARE)[0])


@given(gm=graphs(), draw=st.data())
def test_any_cut_computes_draws_and_writes_what_the_whole_does(gm: GraphModule, draw: st.DataObject) -> None:
    calls = [node for node in gm.graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    unrunnable = draw.draw(st.lists(st.sampled_from(calls), unique=True))
    inputs = gm.graph.find_nodes(op="placeholder")
    partitions = cut(gm, unrunnable, draw.draw(st.lists(st.sampled_from(inputs), unique=True)))
    devices = [partition.device for partition in partitions]
    assert all(one != other for one, other in pairwise(devices))
    assert {n.name for n in unrunnable} <= {name for p in partitions if p.device == CLIENT for name in p.nodes}
    outcomes = []
    for way in (gm, lambda *args: tuple(run(gm, partitions, *args))):
        torch.manual_seed(0)
        args = [torch.rand(node.meta["val"].shape) for node in inputs]
        results = way(*args)
        outcomes.append([*results, *args, torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


def test_the_cost_of_a_cut_is_told_in_bytes() -> None:
    gm = graph_of(lambda x: own(x @ x) @ x, SQUARE)
    partitions = cut_up(gm)
    cuts = find_crossings(gm, partitions, {})
    assert [(c.source, c.target, c.nbytes) for c in cuts] == [(DAEMONS, CLIENT, 64), (CLIENT, DAEMONS, 64)]
    [(partition, cost)] = client_costs(partitions, cuts)
    assert partition is partitions[1]
    assert (cost.fetched_nbytes, cost.sent_nbytes, cost.waits) == (64, 64, 1)


@pytest.fixture
def unsent(monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """A dtype that travels no more: all that PyTorch computes with do."""
    dtype = torch.float8_e8m0fnu
    for module in (arguments, unrunnable):
        monkeypatch.setattr(
            module, "WIRE_DTYPES", {other: name for other, name in WIRE_DTYPES.items() if other != dtype}
        )
    return dtype


def test_values_that_cannot_be_sent_keep_their_readers_on_the_client(unsent: torch.dtype) -> None:
    gm = graph_of(lambda x: (x @ x).to(unsent).float() @ x, SQUARE)
    found = [error.what for error in (find_unrunnable(gm) or {}).values()]
    assert "dtype torch.float8_e8m0fnu" in found[0]
    assert "operator aten._to_copy.default on a value that cannot be sent" in found[1]
    assert [p.device for p in cut_up(gm)] == [DAEMONS, CLIENT, DAEMONS]
    assert find_unrunnable(graph_of(lambda x: x @ x, SQUARE)) is None


def test_an_input_that_cannot_be_sent_is_no_ones_input_but_the_clients(unsent: torch.dtype) -> None:
    gm = graph_of(lambda x, y: (y.float() @ x, y), SQUARE, OTHER.to(unsent))
    [y] = [n.name for n in gm.graph.find_nodes(op="placeholder") if n.meta["val"].dtype != torch.float32]
    client, daemons = cut_up(gm)
    assert (client.device, client.inputs) == (CLIENT, (y,))
    assert y not in daemons.inputs
