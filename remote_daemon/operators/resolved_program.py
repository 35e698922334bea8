"""A resolved Program: checked, with its operators and the plan of its arenas. Made once, when a worker loads it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dynamo_genie.remote_daemon.operators.arena_plan import ArenaPlan, plan_arenas
from dynamo_genie.remote_daemon.operators.program_check import check_program
from dynamo_genie.remote_daemon.operators.table import Operator, resolve_operator
from dynamo_genie.runtime.wire.program import Program


@dataclass(frozen=True)
class ResolvedProgram:
    """A Program with what engines and callers ask of it.

    Attributes:
        device: What it is resolved for.
        operators: One for each node.
        arenas: Where its caches may grow in place.
    """

    program: Program
    device: torch.device
    operators: tuple[Operator, ...]
    arenas: ArenaPlan


def resolve_program(program: Program, device: torch.device) -> ResolvedProgram:
    """Return a validated `program` with what runs its nodes on `device`.

    Raises:
        ProtocolError: A node does not fit its operator's schema.
    """
    found = {key: resolve_operator(key, device) for key in {node.op for node in program.nodes}}
    operators = tuple(found[node.op] for node in program.nodes)
    check_program(program, operators)
    return ResolvedProgram(program, device, operators, plan_arenas(program))
