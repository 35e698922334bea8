"""A graph in several parts: spread over daemons, cut around what the client runs, or both, when it meets its arguments.

Where a graph's parts belong depends on where its inputs are: the caches of one request live on one daemon, those of
another elsewhere, and what the client has it need not fetch. So a placement belongs to the sessions and to the places
of the remote arguments, and is kept for the next call whose arguments lie in the same places.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.calls.client_part import ClientPart
from dynamo_genie.calls.parts import Part, Placement
from dynamo_genie.calls.pipelined import may_pipeline, pipelined
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.calls.sections import Sections
from dynamo_genie.calls.value_slots import ValueSlots
from dynamo_genie.connections.client_work import ClientOperator
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import Fleet, locked
from dynamo_genie.errors import QuotaExceeded, UnsupportedOperator
from dynamo_genie.lowering.arguments import source_line
from dynamo_genie.lowering.graph import lower
from dynamo_genie.lowering.rewrites import LAYOUT_REWRITES
from dynamo_genie.options import Options
from dynamo_genie.passes.cutting.crossings import ClientCost, client_costs
from dynamo_genie.passes.cutting.cut import cut
from dynamo_genie.passes.graphs.pipeline import run_passes
from dynamo_genie.passes.pipelines.seeds import is_long
from dynamo_genie.passes.placement.plan import Partition, PlacementPlan
from dynamo_genie.passes.placement.split import split
from dynamo_genie.passes.placement.topology import CLIENT
from dynamo_genie.passes.rows.numbers import has_symbols
from dynamo_genie.quantities import nbytes_text
from dynamo_genie.tensor.remote_tensor import handle_of
from dynamo_genie.torch_internals.fake import unset_fake_temporarily
from dynamo_genie.torch_internals.operators import HigherOrderOperator, OpOverload

_ELSEWHERE = "elsewhere"
"""Stands for daemons that are not among those of the options."""

Places = tuple[str | None, ...]
"""For each argument, the device on which it is; None for what the client has."""

Sizes = tuple[Any, ...]
"""The sizes of a call on which its pieces depend."""

MOST_SIZES = 16
"""Placements that are kept of a graph whose pieces depend on sizes: of the prompts that came last."""


class InParts:
    """Places a graph on the daemons that the options name, and on the client; once for each way its arguments lie.

    Args:
        unrunnable: The calls that no daemon runs; None where all of the graph is for daemons.
    """

    def __init__(
        self,
        gm: GraphModule,
        plan: CallPlan,
        options: Options,
        unrunnable: Mapping[Node, UnsupportedOperator] | None = None,
    ) -> None:
        self._gm = gm
        self._plan = plan
        self._options = options
        self._unrunnable = unrunnable
        self._operators = {node.name: _operator(node, error) for node, error in (unrunnable or {}).items()}
        self._slots = ValueSlots(gm, plan)
        self._placed: OrderedDict[tuple[Places, Sizes], tuple[Fleet, Placement]] = OrderedDict()
        self._pipelined = unrunnable is None and not plan.backward and may_pipeline(gm, options)
        self._sized = self._pipelined and has_symbols(gm)

    def __call__(self, args: Sequence[Any]) -> Placement:
        """Return the parts for arguments that lie where these do, and have these sizes if pieces depend on them."""
        fleet = CONNECTIONS.fleet(self._options)
        key = tuple(_place_of(fleet, arg) for arg in args), self._sizes(args)
        with locked(fleet.sessions):
            known = self._placed.get(key)
            if known is None or known[0] is not fleet:
                known = self._placed[key] = fleet, self._place(fleet, args, key[0])
                if key[1] and len(self._placed) > MOST_SIZES:
                    self._placed.popitem(last=False)
            self._placed.move_to_end(key)
        return known[1]

    def _sizes(self, args: Sequence[Any]) -> Sizes:
        """Return the sizes on which pieces depend; none where a call is too small to be cut, or never is."""
        if not self._sized:
            return ()
        shapes = {i: tuple(arg.shape) for i, arg in enumerate(args) if isinstance(arg, torch.Tensor)}
        cuttable = any(is_long(shape) for i, shape in shapes.items() if i not in self._plan.resident)
        return (*shapes.values(), *(arg for arg in args if isinstance(arg, int))) if cuttable else ()

    def _place(self, fleet: Fleet, args: Sequence[Any], places: Places) -> Placement:
        """Place the graph; where it does not fit, once more after what is dead but not yet collected is gone."""
        try:
            return self._place_once(fleet, args, places)
        except QuotaExceeded:
            gc.collect()
            return self._place_once(fleet, args, places)

    def _place_once(self, fleet: Fleet, args: Sequence[Any], places: Places) -> Placement:
        named = dict(zip(self._slots.inputs, args, strict=True))
        nbytes = {name: arg.nbytes for name, arg in named.items() if isinstance(arg, torch.Tensor)}
        homes = _homes(fleet, self._slots.inputs, args, places, self._plan.bound(args))
        sections = Sections(self._gm, fleet, self._options, homes, nbytes)
        with unset_fake_temporarily():
            for turn, gm in self._turns(places):
                sections.add(turn, gm)
            plan = sections.plan(map(_reason, dict.fromkeys(self._operators.values())))
            gm = self._gm
            if self._pipelined and sections.topology is not None:
                gm, plan = pipelined(gm, args, plan, sections.topology, homes, fleet, self._options)
            graphs = split(gm, plan.partitions)
        slots = self._slots if gm is self._gm else ValueSlots(gm, self._plan)
        steps = [self._step(fleet, slots, *pair) for pair in zip(plan.partitions, graphs, strict=True)]
        for crossing in plan.cuts:
            if CLIENT not in (crossing.source, crossing.target):
                fleet.open_link(crossing.source, crossing.target)
        self._announce(plan)
        gathered = None if plan.gathers is None else fleet.connection(plan.gathers)
        return slots.placement(steps, plan, sections.topology, gathered)

    def _turns(self, places: Places) -> Sequence[tuple[Partition | None, GraphModule]]:
        """Return the turns that daemons and client take, each with its graph."""
        if self._unrunnable is None:
            return [(None, self._gm)]
        inputs = self._gm.graph.find_nodes(op="placeholder")
        turns = cut(self._gm, self._unrunnable, [n for n, place in zip(inputs, places, strict=True) if place is None])
        return list(zip(turns, split(self._gm, turns), strict=True))

    def _step(self, fleet: Fleet, slots: ValueSlots, partition: Partition, gm: GraphModule) -> Part | ClientPart:
        if partition.device == CLIENT:
            return slots.client_part(partition, gm, self._operators)
        gm = run_passes(gm, LAYOUT_REWRITES).gm
        lowered = lower(gm, facts=self._options.mode.understood)
        return slots.part(partition, fleet.connection(partition.device), lowered)

    def _announce(self, plan: PlacementPlan) -> None:
        for partition, cost in client_costs(plan.partitions, plan.cuts):
            for name in partition.nodes:
                if name in self._operators:
                    CONNECTIONS.client_work.announce(self._operators[name], _cost_text(cost))


def _operator(node: Node, error: UnsupportedOperator) -> ClientOperator:
    inner = node.args[0] if isinstance(node.target, HigherOrderOperator) and node.args else None
    if isinstance(inner, OpOverload):  # one that writes into its arguments, made functional
        return ClientOperator(str(inner), f"operator {inner}", source_line(node.stack_trace))
    return ClientOperator(str(node.target), error.what, source_line(node.stack_trace))


def _reason(operator: ClientOperator) -> str:
    place = f" ({operator.line})" if operator.line else ""
    return f"{operator.reason} cannot run in a daemon and runs on the client{place}"


def _cost_text(cost: ClientCost) -> str:
    if not cost.waits and not cost.sent_nbytes:
        return "a call fetches and sends nothing for it"
    waits = "waits for the daemon once" if cost.waits else "waits for nothing"
    return f"a call {waits}, fetches {nbytes_text(cost.fetched_nbytes)} and sends {nbytes_text(cost.sent_nbytes)}"


def _place_of(fleet: Fleet, arg: Any) -> str | None:
    handle = handle_of(arg)
    return None if handle is None else fleet.endpoint_of(handle.session) or _ELSEWHERE


def _homes(
    fleet: Fleet, names: Sequence[str], args: Sequence[Any], places: Places, resident: Sequence[int]
) -> dict[str, frozenset[str]]:
    """Return where each input is already."""
    homes: dict[str, frozenset[str]] = {}
    for i, (name, device) in enumerate(zip(names, places, strict=True)):
        there = {device} if device not in (None, _ELSEWHERE) else set()
        if i in resident:
            there = {c.endpoint for c in fleet.connections if c.weights.holds(args[i])}
        if there:
            homes[name] = frozenset(there)
    return homes
