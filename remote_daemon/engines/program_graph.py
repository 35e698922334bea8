"""The torch.fx graph of a Program, for compilers. Sizes and numbers of one call become part of it.

Compilers turn the graph into source text, so nothing in it is text of the client's: names are made here, those of
arguments and dtypes are PyTorch's own (the Program was checked), and of other text only known words go in (`words`).
"""

from __future__ import annotations

import cmath
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.operators.table import Operator
from dynamo_genie.remote_daemon.operators.words import text_for_compilers
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.torch_internals.pytree import tree_leaves


def program_graph(resolved: ResolvedProgram, scalars: Sequence[Any]) -> GraphModule:
    """Return a program as a graph that takes its tensor inputs, then its constants, in order.

    Args:
        scalars: For each input None for a tensor, the number for a scalar, which is written into the graph.

    Returns:
        A module whose result is a tuple. Operators are those of this torch, so any compiler of ATen graphs can read it.

    Raises:
        ValueError: The program holds what cannot be written into generated code.
    """
    program = resolved.program
    graph = Graph()
    values: list[Any] = []
    for number, item in enumerate(program.inputs):
        is_tensor = isinstance(item, p.TensorInput)
        values.append(graph.placeholder(f"input_{number}") if is_tensor else scalars[number])
    values += [graph.placeholder(f"constant_{number}") for number in range(len(program.constants))]
    for number, (node, operator) in enumerate(zip(program.nodes, resolved.operators, strict=True)):
        args = [graph_argument(argument, values, number) for argument in node.args]
        kwargs = {name: graph_argument(argument, values, number) for name, argument in node.kwargs}
        if operator.needs_device:
            kwargs["device"] = resolved.device
        values.append(_call(graph, operator, args, kwargs))
    graph.output(tuple(graph_argument(output, values) for output in program.outputs))
    graph.lint()
    return GraphModule(torch.nn.Module(), graph)


def _call(graph: Graph, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Add a call to the graph; what is a plain number for this call is computed at once."""
    if operator.schema is None and not any(isinstance(leaf, Node) for leaf in tree_leaves(args)):
        return operator.run(*args, **kwargs)
    return graph.call_function(operator.overload or operator.run, tuple(args), kwargs)


def graph_argument(argument: p.Argument, values: Sequence[Any], node: int = 0) -> Any:
    """Return what stands in a graph for an argument of this node, where `values` stand for the values so far."""
    match argument:
        case p.Ref(index=index):
            return values[index]
        case p.Items(items=items):
            return [graph_argument(item, values, node) for item in items]
        case p.ComplexNumber(real=real, imag=imag):
            return _finite(complex(real, imag))
        case p.DtypeName() | p.LayoutName() | p.MemoryFormatName():
            return getattr(torch, argument.name)
        case str():
            return text_for_compilers(argument, node)
        case None | bool() | int() | float():
            return argument
        case p.SubRef():
            raise ValueError("compilers of graphs run no sub-programs")


def _finite(number: complex) -> complex:
    if not cmath.isfinite(number):
        raise ValueError(f"{number} has no literal that generated code could be written with")
    return number
