"""Rules of attention: sequences of a batch are independent; queries of a causal attention see earlier keys alone."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from dynamo_genie.passes.rows.pointwise import aligned
from dynamo_genie.passes.rows.shapes import shape_of
from dynamo_genie.passes.rows.template import Axis, CannotCut, CausalMask, Known, Prefix, Rows, RowWise

_BATCH, _SEQUENCE = Axis(0), Axis(2)


def attention(node: Node, known: Known) -> RowWise:
    """(query, key, value, dropout_p, is_causal, *, attn_mask, scale) -> (result, logsumexp), as `portable_attention`.

    All are [batch, heads, sequence, width].
    """
    axes = tuple(known.axis(each) for each in node.args[:3])
    if _BATCH in axes and set(axes) <= {_BATCH, None}:
        return _over_batch(node, known)
    if axes[0] == _SEQUENCE and not known.has_rows(node.args[1:3]):
        return _over_queries(node, known)
    if axes == (_SEQUENCE,) * 3:
        return _over_sequence(node, known)
    raise CannotCut("attends along the rows")


def _over_batch(node: Node, known: Known) -> RowWise:
    mask = node.kwargs.get("attn_mask")
    kwargs = {**node.kwargs, "attn_mask": aligned(mask, _BATCH, 4, known)} if mask is not None else node.kwargs
    queries, keys, values = (Rows(each, _BATCH) for each in node.args[:3])  # type: ignore[arg-type]
    return RowWise((_BATCH, _BATCH), (queries, keys, values, *node.args[3:]), kwargs)


def _over_queries(node: Node, known: Known) -> RowWise:
    """Cross-attention: keys and values are the same for all rows."""
    if _is_causal(node):
        raise CannotCut("hides keys by their distance, and its keys have no rows")
    mask = node.kwargs.get("attn_mask")
    kwargs = {**node.kwargs, "attn_mask": aligned(mask, _SEQUENCE, 4, known)} if mask is not None else node.kwargs
    return RowWise((_SEQUENCE, _SEQUENCE), (Rows(node.args[0], _SEQUENCE), *node.args[1:]), kwargs)  # type: ignore[arg-type]


def _over_sequence(node: Node, known: Known) -> RowWise:
    """Self-attention. Query i sees keys 0 to i, so a piece needs no key that comes after its end."""
    if node.kwargs.get("attn_mask") is not None:
        raise CannotCut("attends along the rows with a mask, which may show a query what comes after it")
    if not _is_causal(node):
        raise CannotCut("attends along the rows in both directions")
    query, key, value = node.args[:3]
    if {shape_of(each)[2] for each in (query, key, value)} != {known.rows}:
        raise CannotCut("attends to more keys than there are rows")
    grown = (Prefix(each, _SEQUENCE) for each in (key, value))  # type: ignore[arg-type]
    kwargs = {**node.kwargs, "attn_mask": CausalMask(query)}  # type: ignore[arg-type]
    return RowWise((_SEQUENCE, _SEQUENCE), (Rows(query, _SEQUENCE), *grown, node.args[3], False), kwargs)  # type: ignore[arg-type]


def _is_causal(node: Node) -> Any:
    return node.args[4] if len(node.args) > 4 else node.kwargs.get("is_causal", False)
