"""A graph as programs on connections: slots of values, and what goes between parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynamo_genie.calls.call import GraphCall
from dynamo_genie.calls.parts import Placement
from dynamo_genie.calls.placing import OnOneDaemon
from dynamo_genie.calls.plan import plan_calls
from dynamo_genie.calls.prediction import StubMesh
from dynamo_genie.calls.value_slots import ValueSlots
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.lowering.graph import lower
from dynamo_genie.lowering.output_shapes import shapes_of
from dynamo_genie.modes import MODES
from dynamo_genie.passes.placement.plan import Cut, Partition, PlacementPlan
from dynamo_genie.passes.placement.split import split
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.dynamo_genie.calls.stub_daemon import Called, Recorder, connection_to, graph_of, lose

# --- one part ------------------------------------------------------------------------------------------------


def test_a_graph_of_one_part_has_its_inputs_and_results_in_order() -> None:
    called = Called(graph_of(lambda x, y: (x + y, x * y), torch.ones(3), torch.ones(3)))
    [part] = called.placement.parts
    assert part.inputs == (0, 1)
    assert part.results == ((2, "output"), (3, "output"))
    assert called.placement.results == (2, 3)
    assert called.placement.n_made == 3


def test_what_nobody_reads_is_nothing_and_a_number_gets_no_name() -> None:
    called = Called(graph_of(lambda x: (x + 1, x.shape[0] * 2), torch.ones(3, 5), dynamic=True))
    [part] = called.placement.parts
    nothing = called.placement.n_made + len(part.inputs) - 1
    assert [slot for i, slot in enumerate(part.inputs) if i in called.plan.unread] == [nothing] * len(
        called.plan.unread
    )
    assert [result is None for result in part.results] == [output.dtype is None for output in called.shapes.outputs]


def test_a_call_returns_remote_tensors_and_posts_one_call() -> None:
    called = Called(graph_of(lambda x: (x + 1, x * 2), torch.ones(3)))
    args: list[Any] = [torch.ones(3)]
    first, second = called.graph(args)
    assert args == []
    assert type(first) is type(second) is RemoteTensor
    [posted] = called.worker.of(m.Call)
    assert posted.outputs == (first.handle.id, second.handle.id)
    assert posted.outputs != (0, 0)


def test_weights_are_bound_once_and_never_travel_with_a_call() -> None:
    weight, x = torch.ones(4, 4), torch.ones(4)
    called = Called(graph_of(lambda w, x: w @ x, weight, x), resident=[0])
    for _ in range(2):
        called.graph([weight, x])
    [binding] = called.worker.of(m.BindWeights)
    assert binding.positions == (0,)
    assert [len(call.inputs) for call in called.worker.of(m.Call)] == [1, 1]
    assert called.session.counters.sent["weight"] == weight.nbytes


def test_what_a_call_writes_into_a_local_tensor_is_read_back() -> None:
    called = Called(graph_of(lambda x: x.mul_(2), torch.ones(3)))
    x = torch.ones(3)
    called.graph([x])
    assert torch.equal(x, torch.zeros(3))  # what a stub says of everything
    [fetch], [put] = called.worker.of(m.Fetch), called.worker.of(m.Put)
    assert fetch.handles == (put.handle,)


def test_a_graph_is_placed_anew_only_when_its_connection_was_lost() -> None:
    called = Called(graph_of(lambda x: x + 1, torch.ones(3)))
    connections = [connection_to(Recorder()) for _ in range(2)]
    place = OnOneDaemon(called.placement.parts[0].lowered, called.plan, called.shapes, iter(connections).__next__)
    first = place([])
    assert place([]) is first
    lose(connections[0])
    second = place([])
    assert [placement.parts[0].connection for placement in (first, second)] == connections


def test_an_argument_on_another_daemon_is_brought_here_under_all_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called(graph_of(lambda x: x + 1, torch.ones(3)))
    elsewhere = connection_to(Recorder()).session
    x = torch.ones(3)
    monkeypatch.setattr(CONNECTIONS, "mesh", StubMesh())
    called.graph([RemoteTensor(x.shape, x.stride(), x.dtype, elsewhere.new_handle())])
    called.session.flush()
    [received], [posted] = called.worker.of(m.ReceiveTensor), called.worker.of(m.Call)
    assert posted.inputs == (received.handle,)


# --- several -------------------------------------------------------------------------------------------------


class Spread:
    """`(x + 1) * 2` and `(x + 1) - 3`: the sum on one daemon, both others on another one."""

    def __init__(self) -> None:
        gm = graph_of(lambda x: ((x + 1) * 2, (x + 1) - 3), torch.ones(3))
        [x] = [node.name for node in gm.graph.find_nodes(op="placeholder")]
        calls = [node.name for node in gm.graph.nodes if node.op == "call_function"]
        first, *rest = calls[:1], *calls[1:]
        returned: Any = gm.graph.output_node().args[0]
        results = tuple(dict.fromkeys(node.name for node in returned))
        made = tuple(first)
        self.partitions = (
            Partition(0, "a", 0, made, (x,), made),
            Partition(1, "b", 1, tuple(rest), (*made, x) if len(rest) > 2 else made, results),
        )
        cut = Cut(made[0], "a", "b", 12, "activation")
        self.planned = PlacementPlan("semantic", self.partitions, (cut,), (), 0.0)
        self.plan = plan_calls(gm, MODES["semantic"], "auto", frozenset())
        self.shapes = shapes_of(gm)
        self.workers = {"a": Recorder(), "b": Recorder()}
        self.connections = {name: connection_to(worker) for name, worker in self.workers.items()}
        slots = ValueSlots(gm, self.plan)
        parts = [
            slots.part(partition, self.connections[partition.device], lower(part))
            for partition, part in zip(self.partitions, split(gm, self.planned.partitions), strict=True)
        ]
        self.placement: Placement = slots.placement(parts, self.planned, Topology((), ()))

    def call(self, *args: torch.Tensor) -> list[Any]:
        self.placement.bind(args, self.plan)
        held = self.placement.sessions
        call = GraphCall(self.placement, self.plan, self.shapes, args, held, StubMesh())
        for part, bound in zip(self.placement.parts, self.placement.bound, strict=True):
            call.send(part, bound, bound.session)
        return call.results()


def test_what_one_part_makes_and_another_reads_goes_from_daemon_to_daemon_once() -> None:
    spread = Spread()
    results = spread.call(torch.ones(3))
    [source], [target] = spread.workers["a"].of(m.Call), spread.workers["b"].of(m.Call)
    [sent], [received] = spread.workers["a"].of(m.SendTensor), spread.workers["b"].of(m.ReceiveTensor)
    assert source.outputs == (sent.handle,)
    assert sent.kind == "activation"
    assert received.handle in target.inputs
    assert target.outputs == tuple(result.handle.id for result in results)
    assert {result.handle.session for result in results} == {spread.connections["b"].session}


def test_what_crosses_is_counted_under_the_class_of_the_value() -> None:
    assert Spread().placement.crossing == {"activation": 12}
