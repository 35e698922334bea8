"""Program back to FX graph, for dumps that people read and for tests of the way there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx

from dynamo_genie.passes.graphs.portable_operators import PORTABLE_KEYS
from dynamo_genie.remote_daemon.engines.program_graph import graph_argument
from dynamo_genie.remote_daemon.operators.table import resolve_operator
from dynamo_genie.runtime.wire import program as p


def raise_program(program: p.Program, constants: Sequence[torch.Tensor] = ()) -> fx.GraphModule:
    """Return a graph that computes what `program` computes, on the CPU.

    Args:
        program: The program.
        constants: Its constants, as tensors.
    """
    graph = fx.Graph()
    values = [graph.placeholder(f"input_{number}") for number in range(len(program.inputs))]
    values += [graph.get_attr(f"constant_{number}") for number in range(len(constants))]
    for number, node in enumerate(program.nodes):
        args = tuple(graph_argument(argument, values, number) for argument in node.args)
        kwargs = {name: graph_argument(argument, values, number) for name, argument in node.kwargs}
        values.append(graph.call_function(_target(node.op), args, kwargs))
    graph.output(tuple(graph_argument(output, values) for output in program.outputs))
    root = torch.nn.Module()
    for number, tensor in enumerate(constants):
        root.register_buffer(f"constant_{number}", tensor)
    gm = fx.GraphModule(root, graph)
    gm.graph.lint()
    return gm


@cache
def _target(key: str) -> Callable[..., Any]:
    portable = {name: function for function, name in PORTABLE_KEYS.items()}
    if key in portable:
        return portable[key]
    if not key.startswith("aten."):
        return resolve_operator(key, torch.device("cpu")).run
    _, packet, overload = key.split(".")
    target: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return target
