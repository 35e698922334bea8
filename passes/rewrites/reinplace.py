"""Reinplacing: writes into an input where the graph would copy it, change the copy and copy everything back.

AOTAutograd makes every operator functional, so a step that writes one token into a static KV cache becomes

Before::

    %updated = call_function[target=aten.index_copy.default](%cache, 2, %position, %new)
    %out = call_function[target=portable_attention](%query, %updated, ...)
    %copied = call_function[target=aten.copy_.default](%cache, %updated)

which moves the whole cache twice.

After::

    %updated = call_function[target=aten.index_copy_.default](%cache, 2, %position, %new)
    %out = call_function[target=portable_attention](%query, %updated, ...)

`slice_scatter` and `select_scatter` have no form that writes in place; a view and a `copy_` into it take their place::

    %view = call_function[target=aten.slice.Tensor](%cache, 2, %start, %end)
    %write = call_function[target=aten.copy_.default](%view, %new)

Several updates of one input, each of the result of the one before, are taken together. Nothing is changed where
somebody still wants the old value later, where the new one is also a result of the graph (the caller would get the
input's own memory), or where what is written views the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.graph_view import is_getitem, nodes_in, reached, shared_by, value_of, written_by

aten = torch.ops.aten

_IN_PLACE: MappingProxyType[Any, Any] = MappingProxyType(
    {
        aten.index_copy.default: aten.index_copy_.default,
        aten.index_put.default: aten.index_put_.default,
        aten.index_add.default: aten.index_add_.default,
        aten.index_fill.int_Scalar: aten.index_fill_.int_Scalar,
        aten.index_fill.int_Tensor: aten.index_fill_.int_Tensor,
        aten.scatter.src: aten.scatter_.src,
        aten.scatter.value: aten.scatter_.value,
    }
)
_INTO_VIEW: MappingProxyType[Any, Any] = MappingProxyType(
    {aten.slice_scatter.default: aten.slice.Tensor, aten.select_scatter.default: aten.select.int}
)


def reinplace(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that updates which end in an input are written there at once."""
    order = {node: number for number, node in enumerate(gm.graph.nodes)}
    modified = False
    for copy in gm.graph.find_nodes(op="call_function", target=aten.copy_.default):
        updates = _updates(copy)
        if updates and not copy.users and _may_write(copy, updates, order):
            gm.graph.erase_node(copy)
            for update in updates:
                _write_in_place(update)
            modified = True
    if modified:
        gm.graph.lint()
        gm.recompile()
    return PassResult(gm, modified)


def _updates(copy: Node) -> list[Node]:
    """Return the updates, oldest first, that make of an input what `copy` writes back into it; none if more does."""
    target, value = copy.args[:2]
    updates: list[Node] = []
    while isinstance(value, Node) and value is not target:
        if value.target not in _IN_PLACE and (value.target not in _INTO_VIEW or len(value.args) < 2):
            return []
        updates.insert(0, value)
        value = value.args[0]
    is_input = isinstance(target, Node) and target.op == "placeholder"
    return updates if is_input and value is target else []


def _may_write(copy: Node, updates: list[Node], order: Mapping[Node, int]) -> bool:
    """Whether writing at each update, in place of at `copy`, changes nothing that anybody reads."""
    old = copy.args[0]
    for update in updates:
        assert isinstance(old, Node)
        if any(order[reader] >= order[update] for reader in _readers(old, update) if reader is not copy):
            return False
        old = update
    latest = _readers(updates[-1], copy)
    return not any(reader.op == "output" or any(written_by(reader)) for reader in latest if reader is not copy)


def _readers(old: Node, update: Node) -> Iterator[Node]:
    """Yield what reads a value or a view of it, apart from `update` where that takes it as the value to change."""
    for memory in _views(old):
        for reader in memory.users:
            if reader is not update or memory is not old or old in _other_arguments(update):
                yield reader


def _views(value: Node) -> Iterator[Node]:
    """Return a value and all that lives in the same memory, as far as operators say."""
    return reached([value], lambda memory: (user for user in memory.users if _is_view_of(user, memory)))


def _is_view_of(node: Node, memory: Node) -> bool:
    return is_getitem(node) or node.target is aten._unsafe_view.default or memory in shared_by(node)


def _other_arguments(update: Node) -> Iterator[Node]:
    return nodes_in((*update.args[1:], *update.kwargs.values()))


# --- the rewriting ---------------------------------------------------------------------------------------


def _write_in_place(update: Node) -> None:
    if update.target in _IN_PLACE:
        update.target = _IN_PLACE[update.target]
        return
    old, new, *place = update.args
    graph = update.graph
    with graph.inserting_before(update):
        view = graph.call_function(_INTO_VIEW[update.target], (old, *place), dict(update.kwargs))
        write = graph.call_function(aten.copy_.default, (view, new))
    view.meta = {**update.meta, "val": value_of(view)}
    write.meta = {**update.meta, "val": view.meta["val"]}
    assert isinstance(old, Node)
    update.replace_all_uses_with(old)
    graph.erase_node(update)
