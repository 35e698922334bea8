"""What crosses between client and daemons because a graph was cut, and what each part on the client costs a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from dynamo_genie.passes.cutting.borders import is_tensor
from dynamo_genie.passes.graphs.semantics import facts_of, nbytes_of
from dynamo_genie.passes.placement.plan import Cut, Partition
from dynamo_genie.passes.placement.topology import CLIENT


@dataclass(frozen=True)
class ClientCost:
    """What one call fetches for a partition of the client, and sends of what that made, at the example's sizes.

    Attributes:
        waits: How often the client waits for daemons: once, where it fetches anything.
    """

    fetched_nbytes: int
    sent_nbytes: int
    waits: int


def find_crossings(gm: GraphModule, partitions: Sequence[Partition], homes: Mapping[str, str]) -> tuple[Cut, ...]:
    """Return the values that a call fetches for the client's partitions, and those of them that it sends.

    Args:
        partitions: Of the client and of devices, in order.
        homes: Where each remote argument is, by the name of its placeholder.
    """
    nodes = {node.name: node for node in gm.graph.nodes}
    maker = {name: partition.device for partition in partitions for name in partition.outputs}
    found: dict[tuple[str, str, str], Cut] = {}
    for partition in partitions:
        for name in partition.inputs:
            source = maker.get(name) or homes.get(name)
            if source is None or source == partition.device or CLIENT not in (source, partition.device):
                continue
            if is_tensor(nodes[name]):
                found.setdefault((name, source, partition.device), _cut(nodes[name], source, partition.device))
    return tuple(found.values())


def client_costs(partitions: Sequence[Partition], cuts: Sequence[Cut]) -> Iterator[tuple[Partition, ClientCost]]:
    """Yield each partition of the client with what it costs; what several of them read is fetched for the first."""
    arriving = {cut.value: cut.nbytes for cut in cuts if cut.target == CLIENT}
    leaving = [cut for cut in cuts if cut.source == CLIENT]
    for partition in partitions:
        if partition.device == CLIENT:
            fetched = [arriving.pop(name) for name in partition.inputs if name in arriving]
            sent = sum(cut.nbytes for cut in leaving if cut.value in partition.outputs)
            yield partition, ClientCost(sum(fetched), sent, int(bool(fetched)))


def _cut(node: Node, source: str, target: str) -> Cut:
    role = facts_of(node).role
    return Cut(node.name, source, target, nbytes_of(node) or 0, role.value if role else "activation")
