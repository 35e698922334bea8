"""Regions of one phase: those of attentions, spread over the nodes around them (encoder, decoder, vision tower).

An input belongs to the first attention that its values ask in. A node belongs where its operands belong; where
towers meet, to the one that they flow into. What depends on no input (a transposed weight, a mask) belongs to its
users.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.semantics import Facts, Phase
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.phase import DECODING, PhaseReport
from dynamo_genie.passes.understanding.towers import Towers

_ORDER = (Phase.VISION, Phase.ENCODE, Phase.PREFILL, Phase.DECODE)
"""Where two towers meet, the later of these goes on."""

_TRAINING = frozenset({Phase.TRAINING_FORWARD, Phase.TRAINING_BACKWARD})


def phase_facts(
    gm: GraphModule, report: PhaseReport, attentions: Sequence[Attention], towers: Towers
) -> dict[Node, Facts]:
    """Return the phase of every node that has one."""
    nodes = [node for node in gm.graph.nodes if node.op != "output"]
    if report.phase in _TRAINING:
        return {node: Facts(phase=report.phase) for node in nodes}
    phases = _claims(report, attentions, towers)
    _flow_down(nodes, phases)
    _flow_up(nodes, phases)
    phases.update((node, Phase.CROSS_ATTENTION) for node in _between_towers(report, attentions))
    return {node: Facts(phase=phase) for node, phase in phases.items()}


def _claims(report: PhaseReport, attentions: Sequence[Attention], towers: Towers) -> dict[Node, Phase]:
    """Return the inputs that belong somewhere at once."""
    phases = dict.fromkeys(towers.pixels, Phase.VISION) | dict.fromkeys(towers.sound, Phase.ENCODE)
    claimed = 0
    for node in phases:
        claimed |= towers.of(node)
    for attention in attentions:
        phase = report.attentions[attention.node]
        if phase is Phase.CROSS_ATTENTION:
            phase = report.phase if report.phase in DECODING else Phase.ENCODE
        asks = towers.of(attention.query) & ~claimed
        claimed |= asks
        phases.update((node, phase) for node in towers.inputs_in(asks))
    return phases


def _flow_down(nodes: Sequence[Node], phases: dict[Node, Phase]) -> None:
    for node in nodes:
        if node not in phases:
            met = [phases[source] for source in node.all_input_nodes if source in phases]
            if met:
                phases[node] = max(met, key=_ORDER.index)


def _flow_up(nodes: Sequence[Node], phases: dict[Node, Phase]) -> None:
    for node in reversed(nodes):
        if node not in phases:
            met = {phases[user] for user in node.users if user in phases}
            if len(met) == 1:
                phases[node] = met.pop()


def _between_towers(report: PhaseReport, attentions: Sequence[Attention]) -> Iterator[Node]:
    """Yield the cross-attentions, and what makes their keys and values of another tower's results."""
    for attention in attentions:
        if report.attentions[attention.node] is Phase.CROSS_ATTENTION:
            yield attention.node
            for entries in (attention.key_history, attention.value_history):
                yield from (node for node in entries if node.op == "call_function")
