"""Tokens that order effects, where AOTAutograd leaves them among a graph's inputs and results though nothing uses them.

It does so for effects inside a branch or a loop (the check of `linalg.cholesky`), and calls the graph without them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._functorch._aot_autograd.descriptors import (
    BackwardTokenAOTInput,
    BackwardTokenAOTOutput,
    ForwardTokenAOTInput,
    ForwardTokenAOTOutput,
)
from torch.fx import GraphModule

from dynamo_genie.torch_internals.probe import Probe, require

_INPUTS = (ForwardTokenAOTInput, BackwardTokenAOTInput)
_OUTPUTS = (ForwardTokenAOTOutput, BackwardTokenAOTOutput)


def drop_dead_tokens(gm: GraphModule) -> None:
    """Rewrite `gm` in place so that no token comes in or goes out.

    Relies on the notes on placeholders and on the output, `node.meta["desc"]`, one for each result.
    """
    output = gm.graph.output_node()
    notes = output.meta.get("desc")
    returned: Any = output.args[0]
    dead = [n for n in gm.graph.find_nodes(op="placeholder") if isinstance(n.meta.get("desc"), _INPUTS) and not n.users]
    if not dead or not isinstance(notes, (list, tuple)) or len(notes) != len(returned):
        return
    kept = [i for i, note in enumerate(notes) if not isinstance(note, _OUTPUTS)]
    output.args = (tuple(returned[i] for i in kept),)
    output.meta["desc"] = [notes[i] for i in kept]
    for node in dead:
        gm.graph.erase_node(node)
    for node in gm.graph.find_nodes(op="get_attr"):
        if not node.users:
            gm.graph.erase_node(node)
    gm.recompile()


def _check() -> None:
    graph = torch.fx.Graph()
    token, x = graph.placeholder("token"), graph.placeholder("x")
    token.meta["desc"] = ForwardTokenAOTInput(0)
    graph.output((x, x)).meta["desc"] = [ForwardTokenAOTOutput(0), None]
    gm = GraphModule(torch.nn.Module(), graph)
    drop_dead_tokens(gm)
    require(gm(1) == (1,), "tokens are noted as such")


PROBES = tuple(
    Probe(
        f"torch._functorch._aot_autograd.descriptors.{kind.__name__}",
        "takes tokens that nothing uses out of graphs with branches",
        _check,
    )
    for kind in (*_INPUTS, *_OUTPUTS)
)
