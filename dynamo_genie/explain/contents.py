"""What an integer input of a graph probably holds, for it decides how well it packs. Looks at roles and at tables."""

from __future__ import annotations

import torch
from torch.fx import Node

from dynamo_genie.explain.expected_call import Content
from dynamo_genie.passes.graphs.graph_view import RESHAPING
from dynamo_genie.passes.graphs.semantics import Role, facts_of, size_hint

MAX_SEGMENTS = 8
"""Ids that look up so few rows are segments or kinds of token: long runs of one number, not a spread."""


def content_of(node: Node) -> tuple[Content, int]:
    """Return what the elements of an input look like and, for token ids, what they are below."""
    role, rows = facts_of(node).role, rows_looked_up(node)
    if role is Role.POSITION:
        return Content.COUNTING, 2
    if role is not Role.MASK and rows is not None and rows > MAX_SEGMENTS:
        return Content.TOKENS, rows
    return Content.CONSTANT, 2


def rows_looked_up(node: Node) -> int | None:
    """Return how many rows the table has from which an embedding takes the rows that `node` names."""
    for user in node.users:
        if user.target is torch.ops.aten.embedding.default and user.args[1] is node:
            table = user.args[0]
            value = table.meta.get("val") if isinstance(table, Node) else None
            return size_hint(value.shape[0]) if isinstance(value, torch.Tensor) else None
        if user.target is torch.ops.aten.embedding_dense_backward.default and user.args[1] is node:
            rows = user.args[2]
            return rows if isinstance(rows, int) else None
        if user.target in RESHAPING and (found := rows_looked_up(user)) is not None:
            return found
    return None
