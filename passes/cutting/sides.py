"""The side on which each call runs: the client for what no daemon runs and what must go with it, else the daemons."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch.fx import GraphModule, Node

from dynamo_genie.passes.cutting.borders import Borders, is_number
from dynamo_genie.passes.graphs.graph_view import is_getitem, written_by
from dynamo_genie.passes.graphs.portable_operators import draws_random_numbers
from dynamo_genie.passes.understanding.cost import flops_of
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import OpOverload


def client_calls(gm: GraphModule, unrunnable: Collection[Node], borders: Borders) -> frozenset[Node]:
    """Return the calls that run on the client, if no daemon runs those of `unrunnable`."""
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    client = set(unrunnable)
    for node in calls:
        if is_getitem(node) and node.args[0] in client:  # one of several results
            client.add(node)
    client.update(_little_work_between(calls, client, borders))
    return frozenset(client)


def _little_work_between(calls: list[Node], client: set[Node], borders: Borders) -> set[Node]:
    """Return the calls that read what the client has and are read there alone, or write there: none waits for them."""
    wanted = {node for node in reversed(calls) if _is_little_work(node, client, borders)}
    for node in reversed(calls):
        if node in wanted and any(u not in client and u not in wanted for u in _readers(node, client, borders)):
            wanted.discard(node)
    here = {*client, *borders.local}
    joined: set[Node] = set()
    for node in calls:
        given = borders.needs([node], client)[1]
        if node in wanted and all(one in here or _is_known_number(one, borders) for one in given):
            joined.add(node)
            here.add(node)
    return joined


def _is_known_number(node: Node, borders: Borders) -> bool:
    return borders.is_told(node) or (node.op == "placeholder" and is_number(node))


def _readers(node: Node, client: set[Node], borders: Borders) -> Iterator[Node]:
    """Yield the calls that read a value, itself or through a view; and the graph's results, if it is one of them."""
    for user in node.users:
        if borders.is_made_by_readers(user, client):
            yield from _readers(user, client, borders)
        else:
            yield user


def _is_little_work(node: Node, client: set[Node], borders: Borders) -> bool:
    """Whether a call moves data or works element by element, and does nothing else."""
    target = node.target
    if node in client or not isinstance(target, OpOverload) or draws_random_numbers(target):
        return False
    if borders.is_made_by_readers(node, client) or borders.is_told(node):
        return False
    if any(borders.base(written) not in borders.local for written in written_by(node)):
        return False
    return flops_of(node) == 0 and bool(node.users or read_schema(target).writes or not read_schema(target).results)
