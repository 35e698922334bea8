"""Lets a recomputation draw the numbers that were drawn the first time, by the state of the generator as a value.

Gradient checkpointing runs a part of the forward graph again in the backward graph. Before::

    forward    %pair = run_and_save_rng_state(aten.native_dropout.default, %x, 0.5, True)
    backward   %again = run_with_rng_state(%state, aten.native_dropout.default, %x, 0.5, True)

After::

    forward    %state = portable_generator_state()
               %dropout = aten.native_dropout.default(%x, 0.5, True)

    backward   %kept = portable_generator_state()
               %set = portable_set_generator_state(%state)
               %again = aten.native_dropout.default(%x, 0.5, True)
               %reset = portable_set_generator_state(%kept)

An operator that PyTorch takes for a random one and that draws nothing, attention without dropout, is called as it is;
a state that nobody will set is not taken either, and an empty tensor stands for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.graph_view import all_graphs, value_of
from dynamo_genie.passes.graphs.portable_operators import (
    draws_random_numbers,
    portable_generator_state,
    portable_set_generator_state,
)

aten = torch.ops.aten

_SAVE = torch.ops.higher_order.run_and_save_rng_state
_AGAIN = torch.ops.higher_order.run_with_rng_state


def keep_generator_states(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that states of the generator are values."""
    modified = False
    for graph_module in all_graphs(gm):
        graph = graph_module.graph
        saving = graph.find_nodes(op="call_function", target=_SAVE)
        again = graph.find_nodes(op="call_function", target=_AGAIN)
        for node in saving:
            _save(node)
        for node in again:
            _run_again(node)
        if saving or again:
            graph.lint()
            graph_module.recompile()
            modified = True
    return PassResult(gm, modified)


def _save(node: Node) -> None:
    target, *args = node.args
    results = {user.args[1]: user for user in list(node.users)}
    with node.graph.inserting_before(node):
        call = _call(node, target, tuple(args), dict(node.kwargs))
        if 0 in results:
            with node.graph.inserting_before(call):  # as it is before the first run
                _replace(results[0], _state(results[0], draws_random_numbers(target)))
    if 1 in results:
        _replace(results[1], call)
    node.graph.erase_node(node)


def _state(taken: Node, draws: bool) -> Node:
    """Add what gives the state of the generator, or nothing where nothing is drawn.

    Its size is a symbol to whoever captures with dynamic shapes, and the same always.
    """
    state = (
        _call(taken, portable_generator_state, ())
        if draws
        else _call(taken, aten.zeros.default, ([0],), {"dtype": torch.uint8})
    )
    state.meta["val"] = value_of(state)
    return state


def _replace(taken: Node, value: Node) -> None:
    value.meta = {**taken.meta, **({"val": value.meta["val"]} if "val" in value.meta else {})}
    taken.replace_all_uses_with(value)
    taken.graph.erase_node(taken)


def _run_again(node: Node) -> None:
    state, target, *args = node.args
    assert isinstance(state, Node)
    with node.graph.inserting_before(node):
        kept = _state(state, draws=True) if draws_random_numbers(target) else None
        if kept is not None:
            _call(node, portable_set_generator_state, (state,))
        call = _call(node, target, tuple(args), dict(node.kwargs))
        call.meta.setdefault("val", value_of(call))
        if kept is not None:
            _call(node, portable_set_generator_state, (kept,))
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def _call(like: Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Node:
    """Add a call with the value and the source line of another node, as far as they are known."""
    node = like.graph.call_function(target, args, kwargs)
    node.meta = dict(like.meta)
    return node
