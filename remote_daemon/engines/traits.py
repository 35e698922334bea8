"""The traits of a program: what engines ask before they take it on. Pure; decided once, at load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import HIGHER_ORDER

RESIDENT_ROLES = frozenset({"weight", "buffer", "constant", "kv_cache"})


@dataclass(frozen=True)
class Traits:
    """The traits of a program, known without running it.

    Attributes:
        phase: The phase that most of its values are said to belong to; empty where nothing is said.
        grows: Whether caches grow by `cat`, so that shapes change from call to call.
        branches: The first operator that runs sub-programs; empty where there is none.
        growth: Where they grow, why there is no fixed form of the program in which shapes stay; empty where there is.
        reads_data: The first operator that must wait for the device; empty where there is none.
        random: Whether it draws random numbers.
        mutated: Positions of the inputs that it writes to.
        resident: Positions of the inputs that, by the facts, stay where they are from call to call, or must.
        nodes: How many operators it has.
        default_dtype: What its operators make of integers and Python floats.
    """

    phase: str
    grows: bool
    reads_data: str
    random: bool
    mutated: frozenset[int]
    resident: frozenset[int]
    nodes: int
    default_dtype: str = "float32"
    growth: str = ""
    branches: str = ""


def traits_of(resolved: ResolvedProgram, growth: str = "") -> Traits:
    """Return what a program's text and facts say; `growth` is why its caches' growth is in the way, if it is."""
    program = resolved.program
    phases = Counter(program.facts[i].phase for i in program.fact_of if program.facts[i].phase)
    held = {i for i in range(len(program.inputs)) if p.role_of(program, i) in RESIDENT_ROLES}
    tensors = {i for i, item in enumerate(program.inputs) if isinstance(item, p.TensorInput)}
    mutated = frozenset(program.mutated_inputs)
    return Traits(
        phase=phases.most_common(1)[0][0] if phases else "",
        grows=bool(resolved.arenas.appends),
        reads_data=next((operator.key for operator in resolved.operators if operator.reads_data), ""),
        random=program.random,
        mutated=mutated,
        resident=frozenset(held & tensors) | mutated,
        nodes=len(program.nodes),
        default_dtype=program.default_dtype,
        growth=growth,
        branches=next((node.op for node in program.nodes if node.op in HIGHER_ORDER), ""),
    )
