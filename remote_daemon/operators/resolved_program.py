"""A resolved Program: checked, with its operators and the plan of its arenas. Made once, when a worker loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dynamo_genie.remote_daemon.operators.arena_plan import ArenaPlan, plan_arenas
from dynamo_genie.remote_daemon.operators.program_check import check_program
from dynamo_genie.remote_daemon.operators.table import Operator, resolve_operator, without_logsumexp
from dynamo_genie.runtime.wire.program import Program, Ref, SubProgram

_HALF = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True)
class ResolvedProgram:
    """A Program with what engines and callers ask of it.

    Attributes:
        device: What it is resolved for.
        operators: One for each node.
        arenas: Where its caches may grow in place.
        nested: The operators of each sub-program, one for each node; their caches do not grow in place.
    """

    program: Program
    device: torch.device
    operators: tuple[Operator, ...]
    arenas: ArenaPlan
    nested: tuple[tuple[Operator, ...], ...] = ()


def resolve_program(program: Program, device: torch.device) -> ResolvedProgram:
    """Return a validated `program` with what runs its nodes on `device`.

    Raises:
        ProtocolError: A node does not fit its operator's schema.
    """
    keys = dict.fromkeys(node.op for body in bodies(program) for node in body.nodes)
    found = {key: resolve_operator(key, device) for key in keys}
    operators, *nested = (_operators(body, found) for body in bodies(program))
    check_program(program, (operators, *nested))
    return ResolvedProgram(program, device, operators, plan_arenas(program, unlike_products(device)), tuple(nested))


def bodies(program: Program) -> tuple[Program | SubProgram, ...]:
    """Return a program and its sub-programs, in order."""
    return (program, *program.subprograms)


def _operators(body: Program | SubProgram, found: Mapping[str, Operator]) -> tuple[Operator, ...]:
    read = _logsumexps(body)
    first = len(body.inputs) + len(body.constants)
    return tuple(
        found[node.op] if value in read else without_logsumexp(found[node.op])
        for value, node in enumerate(body.nodes, first)
    )


def unlike_products(device: torch.device) -> frozenset[str]:
    """Return the dtypes in which products with a window of an arena have other bits than with a contiguous tensor.

    Measured (`tests/remote_daemon/memory/test_arena_bits.py`): in none up to torch 2.14, in half precision with 2.15.
    """
    return _HALF if device.type == "cpu" and torch.__version__ >= "2.15" else frozenset()


def _logsumexps(program: Program | SubProgram) -> set[int]:
    """Return the values of several results of which another one than the first is read."""
    return {
        node.args[0].index
        for node in program.nodes
        if node.op == "getitem" and isinstance(node.args[0], Ref) and node.args[1] != 0
    }
