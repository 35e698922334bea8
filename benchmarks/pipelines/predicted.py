"""What the cost model predicts of a call on more daemons and other links than there are; nothing is run or measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.fx import GraphModule, Node

from dynamo_genie.bench.network.spec import NetworkShape
from dynamo_genie.bench.pipelines.models import MODELS
from dynamo_genie.bench.pipelines.plan import PHASES
from dynamo_genie.bench.report import Say
from dynamo_genie.bench.study.records import Row, Study, begun_study, write_study
from dynamo_genie.bench.study.report.pipeline_tables import CALLS
from dynamo_genie.errors import GenieError
from dynamo_genie.lowering.decompositions import decomposition_table
from dynamo_genie.lowering.input_origins import find_model_inputs, origins_of
from dynamo_genie.lowering.rewrites import REWRITES
from dynamo_genie.passes.graphs.pipeline import run_passes
from dynamo_genie.passes.graphs.semantics import Residency, facts_of
from dynamo_genie.passes.pipelines.pipeline import propose_pipelines
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.topology import CLIENT, Device, Link, Topology
from dynamo_genie.passes.understanding.analysis import analyse
from dynamo_genie.torch_internals.capture import capture_aten
from dynamo_genie.torch_internals.fake import unset_fake_temporarily

COUNTS = (1, 2, 4, 8)
RATES_BITS_S = (1e9, 10e9, 100e9)
LATENCY_S = 1e-4
ROOM = 1 << 40
FIRST_FLOPS_PER_S, FIRST_BYTES_PER_S = 50e9, 10e9
_ROUNDS = 4
"""Of bringing a device's speed to the measured time; operators cost a little that no speed takes away."""


@dataclass(frozen=True)
class MeasuredCall:
    """A call, and what one daemon was measured to take for it."""

    model: str
    rows: int
    one_s: float


class _Captured(Exception):
    """Ends a call when its graph has been captured."""


@dataclass
class _Capture:
    """A backend that understands a graph as ours does, keeps it, and goes no further."""

    found: list[GraphModule] = field(default_factory=list)

    def __call__(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Any:
        model = find_model_inputs(gm, example_inputs)

        def keep(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
            rewritten = run_passes(graph, REWRITES)
            analyse(rewritten.gm, origins_of(rewritten.gm, model))
            self.found.append(rewritten.gm)
            return _stop

        return capture_aten(
            gm, example_inputs, forward=keep, backward=keep, inference=keep, decompositions=decomposition_table()
        )


def _stop(*args: Any) -> Any:
    raise _Captured


def captured(name: str, rows: int) -> GraphModule:
    """Return the annotated graph of a call; its model's weights are reserved and never touched."""
    import transformers

    architecture = MODELS[name]
    config = architecture.config()
    with torch.device("meta"):
        model = getattr(transformers, architecture.name)(config)
    model.to_empty(device="cpu").eval()
    inputs: dict[str, Any] = {"pixel_values": torch.zeros(rows, 3, architecture.image, architecture.image)}
    if PHASES[name] == "prefill":
        cache = transformers.DynamicCache(config=config)
        inputs = {"input_ids": torch.ones(1, rows, dtype=torch.long), "past_key_values": cache, "logits_to_keep": 1}
    capture = _Capture()
    torch.compiler.reset()
    compiled: Any = torch.compile(model.forward, backend=capture)
    try:
        with torch.no_grad():
            compiled(**inputs)
    except _Captured:
        pass
    [graph] = capture.found
    return graph


def topology_of(count: int, rate_bits_s: float, speed: float) -> Topology:
    """Return so many daemons of one speed (1 is the first guess), and links of one rate between all ends."""
    names = [f"daemon{number}" for number in range(count)]
    devices = tuple(Device(name, ROOM, FIRST_FLOPS_PER_S * speed, FIRST_BYTES_PER_S * speed) for name in names)
    pairs = permutations((CLIENT, *names), 2)
    return Topology(devices, tuple(Link(source, target, LATENCY_S, rate_bits_s / 8) for source, target in pairs))


def predict_study(studies: Sequence[Study], path: Path, say: Say) -> None:
    """Predict every call that documents measured on their first networks, and write the document of that.

    Raises:
        GenieError: Nothing was measured there.
    """
    calls = [
        MeasuredCall(row.model, row.prompt or row.batch, statistics.median(map(sum, row.seconds)))
        for study in studies
        for row in study.rows
        if row.mode == "one" and row.phase in CALLS and row.network == study.networks[0].name
    ]
    if not calls:
        raise GenieError("no call of one daemon was measured in these documents, so there is nothing to predict from")
    begun = begun_study("pipelines", 0, 1, tuple(map(shape_of, RATES_BITS_S)))
    begun = msgspec.structs.replace(begun, experiment="pipelines-predicted")
    rows: list[Row] = []
    for call in calls:
        say(f"{call.model}, {call.rows} rows")
        rows += predicted_rows(call)
        write_study(path, msgspec.structs.replace(begun, rows=tuple(rows), complete=call is calls[-1]))


def predicted_rows(call: MeasuredCall) -> list[Row]:
    """Return the predictions of a call: one daemon and more of them, on links of each rate.

    Daemons are as fast as the one that was measured; a plan is the one that would be chosen.
    """
    graph = captured(call.model, call.rows)
    with unset_fake_temporarily():
        speed = _speed(graph, call.one_s, RATES_BITS_S[-1])
        return [
            _row(call, count, rate, step_s(graph, topology_of(count, rate, speed)))
            for rate in RATES_BITS_S
            for count in COUNTS
        ]


def step_s(graph: GraphModule, topology: Topology) -> float:
    """Return the predicted seconds of a call under the plan that would be chosen."""
    homes = {
        node.name: frozenset(device.name for device in topology.devices)
        for node in graph.graph.find_nodes(op="placeholder")
        if _is_weight(node)
    }
    whole = place(graph, topology, homes=homes)
    proposals = propose_pipelines(graph, topology, homes, whole)
    return proposals.pipelines[0].plan.step_s if proposals.pipelines else whole.step_s


def _is_weight(node: Node) -> bool:
    return facts_of(node).residency is Residency.PERSISTENT


def _speed(graph: GraphModule, one_s: float, rate_bits_s: float) -> float:
    """Return the speed of a daemon that takes as long as was measured."""
    speed = 1.0
    for _ in range(_ROUNDS):
        speed *= step_s(graph, topology_of(1, rate_bits_s, speed)) / one_s
    return speed


def _row(each: MeasuredCall, count: int, rate_bits_s: float, seconds: float) -> Row:
    tokens = PHASES[each.model] == "prefill"
    return Row(
        mode=str(count),
        phase=PHASES[each.model],
        model=each.model,
        dtype="float32",
        device="simulated",
        network=shape_of(rate_bits_s).name,
        prompt=each.rows if tokens else 0,
        seconds=((seconds,),),
        steps=1,
        batch=1 if tokens else each.rows,
    )


def shape_of(rate_bits_s: float) -> NetworkShape:
    """Return a link that there is only in the simulation."""
    return NetworkShape(f"{rate_bits_s / 1e9:g}gbit,0.1ms", rate_bits_s, LATENCY_S, note="simulated, not measured")
