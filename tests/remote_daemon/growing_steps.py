"""Decode steps in small, as Programs: a key and a value cache that grow, attention to them, and a position."""

from __future__ import annotations

import torch

from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, resolve_program
from dynamo_genie.runtime.wire import program as p

CPU = torch.device("cpu")
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
CACHE, NOTHING = p.ValueFacts(role="kv_cache", phase="decode"), p.ValueFacts(phase="decode")

KEYS, VALUES, NEW, NUMBER, IDLE = range(5)
"""Inputs: the caches, the new rows [batch, kv_heads, rows, head_dim], a number that is added, one that is not read."""

FIRST = 5
CATS = (FIRST, FIRST + 1)

STEP = (
    p.Node("aten.cat.default", (p.Items((p.Ref(KEYS), p.Ref(NEW))), -2)),  # 5
    p.Node("aten.cat.default", (p.Items((p.Ref(VALUES), p.Ref(NEW))), 2)),  # 6
    p.Node("aten.repeat.default", (p.Ref(NEW), p.Items((1, HEADS // KV_HEADS, 1, 1)))),  # 7: the query
    p.Node("genie.attention", (p.Ref(7), p.Ref(5), p.Ref(6)), (("scale", 0.3),)),  # 8
    p.Node("getitem", (p.Ref(8), 0)),  # 9
    p.Node("aten.arange.default", (2,)),  # 10
    p.Node("aten.add.Tensor", (p.Ref(10), p.Ref(NUMBER))),  # 11
)
OUTPUTS = (p.Ref(9), p.Ref(5), p.Ref(6), p.Ref(11))


def growing_step(
    nodes: tuple[p.Node, ...] = STEP, outputs: tuple[p.Argument, ...] = OUTPUTS, rank: int | None = 4
) -> ResolvedProgram:
    """Return a step, by default the one above, resolved for the CPU."""
    inputs = (*(p.TensorInput("float32", rank),) * 3, *(p.ScalarInput("int"),) * 2)
    roles = [1 if value in (KEYS, VALUES, *CATS) else 0 for value in range(FIRST + len(nodes))]
    program = p.Program(
        p.PROGRAM_VERSION, inputs, (), nodes, outputs, facts=(NOTHING, CACHE), fact_of=tuple(roles)
    )  # fmt: skip
    p.validate_program(program)
    return resolve_program(program, CPU)


def rows(count: int, *, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Return some rows of keys or values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, KV_HEADS, count, HEAD_DIM, generator=generator)
