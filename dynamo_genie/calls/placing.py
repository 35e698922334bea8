"""Where the parts of a compiled graph run: all on one daemon, or spread over several when it meets its arguments.

Where a graph's parts belong depends on where its inputs are: the caches of one request live on one daemon, those of
another elsewhere. So a placement belongs to the sessions and to the places of the remote arguments, and is kept for the
next call whose arguments lie in the same places.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.calls.parts import Part, Placement, ValueSlots, whole
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import Fleet, locked
from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.lowering.graph import LoweredProgram, lower
from dynamo_genie.lowering.output_shapes import OutputShapes
from dynamo_genie.lowering.rewrites import LAYOUT_REWRITES
from dynamo_genie.options import Options
from dynamo_genie.passes.graphs.pipeline import run_passes
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import Partition
from dynamo_genie.passes.placement.split import split
from dynamo_genie.tensor.remote_tensor import handle_of
from dynamo_genie.torch_internals.fake import unset_fake_temporarily

Places = tuple[str | None, ...]
"""For each argument, the device on which it is; None for what the client has."""


class OnOneDaemon:
    """Keeps a graph whole; placed anew when its connection was lost."""

    def __init__(
        self, lowered: LoweredProgram, plan: CallPlan, shapes: OutputShapes, connect: Callable[[], Connection]
    ) -> None:
        self._lowered = lowered
        self._plan = plan
        self._shapes = shapes
        self._connect = connect
        self._placed: tuple[Connection, Placement] | None = None

    def __call__(self, args: Sequence[Any]) -> Placement:
        """Return the graph as one part."""
        placed = self._placed
        if placed is None or not placed[0].alive:
            connection = self._connect()
            if placed is None or placed[0] is not connection:
                placement = whole(connection, self._lowered, self._plan, self._shapes)
                placed = self._placed = connection, placement
        return placed[1]


class OnSeveralDaemons:
    """Spreads a graph over the daemons that the options name; placed once for each way its arguments lie."""

    def __init__(self, gm: GraphModule, plan: CallPlan, options: Options) -> None:
        self._gm = gm
        self._plan = plan
        self._options = options
        self._slots = ValueSlots(gm, plan)
        self._placed: dict[Places, tuple[Fleet, Placement]] = {}

    def __call__(self, args: Sequence[Any]) -> Placement:
        """Return the graph's parts for arguments that lie where these do."""
        fleet = CONNECTIONS.fleet(self._options)
        places = tuple(_place_of(fleet, arg) for arg in args)
        with locked(fleet.sessions):
            known = self._placed.get(places)
            if known is None or known[0] is not fleet:
                known = self._placed[places] = fleet, self._place(fleet, args, places)
        return known[1]

    def _place(self, fleet: Fleet, args: Sequence[Any], places: Places) -> Placement:
        """Place the graph; where it does not fit, once more after what is dead but not yet collected is gone."""
        try:
            return self._place_once(fleet, args, places)
        except QuotaExceeded:
            gc.collect()
            return self._place_once(fleet, args, places)

    def _place_once(self, fleet: Fleet, args: Sequence[Any], places: Places) -> Placement:
        resident = self._plan.bound(args)
        homes, held = _homes(fleet, self._slots.inputs, args, places, resident)
        topology, options = fleet.topology(held), self._options
        policy = options.placement or options.mode.placement
        with unset_fake_temporarily():
            plan = place(self._gm, topology, homes=homes, policy=policy, seed=options.placement_seed)
            graphs = split(self._gm, plan)
        parts = [self._part(fleet, *pair) for pair in zip(plan.partitions, graphs, strict=True)]
        for cut in plan.cuts:
            fleet.open_link(cut.source, cut.target)
        return self._slots.placement(parts, plan, topology)

    def _part(self, fleet: Fleet, partition: Partition, gm: GraphModule) -> Part:
        gm = run_passes(gm, LAYOUT_REWRITES).gm
        lowered = lower(gm, facts=self._options.mode.understood)
        return self._slots.part(partition, fleet.connection(partition.device), lowered)


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
