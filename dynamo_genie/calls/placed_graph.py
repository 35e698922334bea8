"""A compiled graph spread over several daemons: placed when it meets its arguments, then run part by part.

Where a graph's parts belong depends on where its inputs are: the caches of one request live on one daemon, those of
another elsewhere. So a placement belongs to the sessions and to the places of the remote arguments, and is kept for the
next call whose arguments lie in the same places.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.graph_values import graph_values
from dynamo_genie.calls.inputs import handle_of
from dynamo_genie.calls.placed_call import PlacedCall
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import Fleet, locked
from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.lowering.graph import LoweredProgram, lower
from dynamo_genie.lowering.rewrites import LAYOUT_REWRITES
from dynamo_genie.options import Options
from dynamo_genie.passes.graphs.pipeline import run_passes
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import Partition, PlacementPlan
from dynamo_genie.passes.placement.split import split
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.torch_internals.fake import unset_fake_temporarily

Places = tuple[str | None, ...]
"""For each argument, the device on which it is; None for what the client has."""


@dataclass(frozen=True, eq=False)
class Part:
    """One partition as a graph of its own, and lowered; its inputs are `partition.inputs`, in order."""

    partition: Partition
    gm: GraphModule
    lowered: LoweredProgram


@dataclass
class Placement:
    """A graph placed on one fleet.

    Attributes:
        resident: Names of the inputs that are bound.
        ask: Whether a daemon is asked which of them it has before they are sent.
        engine: What runs the parts' programs in the daemons.
        bound: The program of each part, once a call has bound it.
    """

    fleet: Fleet
    plan: PlacementPlan
    topology: Topology
    parts: tuple[Part, ...]
    resident: frozenset[str]
    ask: bool
    engine: str
    bound: dict[int, BoundProgram]


class PlacedGraph:
    """Calls a graph on several daemons; made once per graph, placed once for each way its arguments lie."""

    _boxed_call = True

    def __init__(self, gm: GraphModule, plan: CallPlan, options: Options) -> None:
        self._gm = gm
        self._values = graph_values(gm, plan)
        self._options = options
        self._placements: dict[Places, Placement] = {}

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties `args`, so that arguments can die as soon as they are sent."""
        fleet = CONNECTIONS.fleet(self._options)
        with locked([*fleet.sessions, *[handle.session for arg in args if (handle := handle_of(arg)) is not None]]):
            placement = self._placement(fleet, args)
            values = dict(zip(self._values.inputs, args, strict=True))
            bound = [_bind(placement, index, values) for index in range(len(placement.parts))]
            results = self._run(fleet, placement, bound, args)
        args.clear()
        return results

    def _run(self, fleet: Fleet, placement: Placement, bound: Sequence[BoundProgram], args: Sequence[Any]) -> list[Any]:
        """Send all parts, in order, and return the results."""
        call = PlacedCall(fleet, self._values, args)
        for part, program in zip(placement.parts, bound, strict=True):
            call.run(program, part.partition)
        return call.results()

    def _placement(self, fleet: Fleet, args: Sequence[Any]) -> Placement:
        """Return the placement for arguments that lie where these do, on this fleet."""
        places = tuple(_place_of(fleet, arg) for arg in args)
        known = self._placements.get(places)
        if known is None or known.fleet is not fleet:
            known = self._placements[places] = self._place(fleet, args, places)
        return known

    def _place(self, fleet: Fleet, args: Sequence[Any], places: Places) -> Placement:
        """Place the graph; where it does not fit, once more after what is dead but not yet collected is gone."""
        try:
            return self._place_once(fleet, args, places)
        except QuotaExceeded:
            gc.collect()
            return self._place_once(fleet, args, places)

    def _place_once(self, fleet: Fleet, args: Sequence[Any], places: Places) -> Placement:
        resident = self._values.plan.bound(args)
        homes, held = _homes(fleet, self._values.inputs, args, places, resident)
        topology, options = fleet.topology(held), self._options
        policy = options.placement or options.mode.placement
        with unset_fake_temporarily():
            plan = place(self._gm, topology, homes=homes, policy=policy, seed=options.placement_seed)
            graphs = split(self._gm, plan)
        facts = options.mode.understood
        parts = tuple(_part(partition, gm, facts) for partition, gm in zip(plan.partitions, graphs, strict=True))
        for cut in plan.cuts:
            fleet.open_link(cut.source, cut.target)
        names = frozenset(self._values.inputs[i] for i in resident)
        return Placement(fleet, plan, topology, parts, names, facts, options.engine, {})


def _part(partition: Partition, gm: GraphModule, facts: bool) -> Part:
    gm = run_passes(gm, LAYOUT_REWRITES).gm
    return Part(partition, gm, lower(gm, facts=facts))


def _bind(placement: Placement, index: int, values: Mapping[str, Any]) -> BoundProgram:
    """Make sure that the resident inputs of a part are those of this call."""
    part = placement.parts[index]
    names = part.partition.inputs
    args = [values.get(name) for name in names]  # what other parts make is not there yet, and not bound
    bound = placement.bound.get(index)
    if bound is not None:
        bound.sync(args)
        return bound
    resident = tuple(i for i, name in enumerate(names) if name in placement.resident)
    connection = placement.fleet.connection(part.partition.device)
    bound = placement.bound[index] = BoundProgram(
        connection, part.lowered, args, resident, ask=placement.ask, engine=placement.engine
    )
    return bound


def _place_of(fleet: Fleet, arg: Any) -> str | None:
    handle = handle_of(arg)
    return None if handle is None else fleet.endpoint_of(handle.session)


def _homes(
    fleet: Fleet, names: Sequence[str], args: Sequence[Any], places: Places, resident: Sequence[int]
) -> tuple[dict[str, frozenset[str]], dict[str, int]]:
    """Return where each input is already, and how many bytes of the inputs each device holds."""
    homes: dict[str, frozenset[str]] = {}
    held: Counter[str] = Counter()
    for i, (name, device) in enumerate(zip(names, places, strict=True)):
        there = {device} if device is not None else set()
        if i in resident:
            there = {c.endpoint for c in fleet.connections if c.weights.holds(args[i])}
        if there:
            homes[name] = frozenset(there)
            held.update(dict.fromkeys(there, args[i].nbytes))
    return homes, held
