"""An attention as it was found, and what is carried to it. Found by `attention_search`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch.fx import Node

from dynamo_genie.passes.graphs.semantics import Facts
from dynamo_genie.passes.understanding.lineage import history


@dataclass(frozen=True)
class Attention:
    """One attention: what asks, what is looked at, and who may see whom.

    Attributes:
        node: The node that makes the result.
        key_axis: The dimension of `key` along which the keys are lined up; `value_axis` likewise.
        query_length: How many queries, with the example's sizes; None where that depends on data.
        biases: Masks and position biases.
        causal: Whether a query sees no later key.
        softmax: The middle of an attention that is spelled out; None where it is one operator.
    """

    node: Node
    query: Node
    key: Node
    value: Node
    key_axis: int
    value_axis: int
    query_length: int | None
    key_length: int | None
    biases: tuple[Node, ...]
    causal: bool
    softmax: Node | None = None

    @cached_property
    def query_history(self) -> dict[Node, int | None]:
        """What the queries are carried from."""
        return history(self.query, None)

    @cached_property
    def key_history(self) -> dict[Node, int | None]:
        """What the keys are carried from and the queries are not, with the sequence's dimension in each."""
        return self._not_of_the_query(history(self.key, self.key_axis))

    @cached_property
    def value_history(self) -> dict[Node, int | None]:
        """What the values are carried from and the queries are not, with the sequence's dimension in each."""
        return self._not_of_the_query(history(self.value, self.value_axis))

    def _not_of_the_query(self, found: dict[Node, int | None]) -> dict[Node, int | None]:
        return {node: axis for node, axis in found.items() if node not in self.query_history}

    def describe(self) -> str:
        """Return a line for people."""
        how = "spelled out" if self.softmax is not None else "one operator"
        order = "causal" if self.causal else "masked or biased" if self.biases else "unmasked"
        return f"attention, {how}: {self.query_length} queries over {self.key_length} keys, {order}"


def attention_facts(attentions: tuple[Attention, ...]) -> dict[Node, Facts]:
    """Return a line of evidence for each attention; what it means is for later passes."""
    return {attention.node: Facts(evidence=(attention.describe(),)) for attention in attentions}
