"""The rule of each operator. One without a rule, or whose rule refuses, makes the graph whole again from there on."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.graphs.portable_operators import portable_attention
from dynamo_genie.passes.rows import attention, lookups, movement, products, reductions
from dynamo_genie.passes.rows.pointwise import first_only, pointwise
from dynamo_genie.passes.rows.template import CannotCut, Known, RowWise, Rule
from dynamo_genie.torch_internals.operators import OpOverload

_NAMES: Mapping[Rule, str] = MappingProxyType(
    {
        first_only: "clone _to_copy alias detach lift_fresh_copy lift_fresh contiguous",
        pointwise: "add sub mul div where",
        movement.view: "view _unsafe_view reshape",
        movement.expand: "expand",
        movement.permute: "permute",
        movement.transpose: "transpose t",
        movement.unsqueeze: "unsqueeze",
        movement.squeeze: "squeeze",
        movement.take: "slice",
        movement.select: "select",
        movement.split: "split split_with_sizes unbind chunk unsafe_split unsafe_split_with_sizes",
        movement.cat: "cat",
        movement.stack: "stack",
        movement.other_dims: "flip roll",
        movement.pad: "constant_pad_nd",
        reductions.reduction: "sum mean amax amin var std argmax argmin max min any all prod logsumexp norm "
        "linalg_vector_norm",
        reductions.along: "softmax _softmax log_softmax _log_softmax cumsum cumprod topk sort",
        reductions.layer_norm: "native_layer_norm _fused_rms_norm",
        reductions.group_norm: "native_group_norm",
        reductions.batch_norm: "_native_batch_norm_legit_no_training native_batch_norm _native_batch_norm_legit "
        "_batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional "
        "_native_batch_norm_legit_functional",
        products.product: "mm bmm",
        products.product_with_bias: "addmm baddbmm",
        products.convolution: "convolution",
        products.pooling: "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d pixel_shuffle reflection_pad2d",
        lookups.embedding: "embedding",
        lookups.index: "index",
        lookups.index_select: "index_select",
        lookups.gather: "gather",
    }
)

RULES: Mapping[Any, Rule] = MappingProxyType(
    {
        operator.getitem: movement.getitem,
        portable_attention: attention.attention,
        **{
            getattr(packet, overload): rule
            for rule, names in _NAMES.items()
            for packet in (getattr(torch.ops.aten, name) for name in names.split())
            for overload in packet.overloads()
            if not getattr(packet, overload)._schema.is_mutable
        },
    }
)
"""By operator, all overloads of a name that write nothing."""


def row_wise(node: Node, known: Known) -> RowWise:
    """Say how a call works on a piece of the rows.

    Raises:
        CannotCut: It does not, or nobody has proved it.
    """
    target: Any = node.target
    rule = RULES.get(target)
    if rule is None and isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags:
        rule = None if target._schema.is_mutable else pointwise
    if rule is None:
        raise CannotCut("has no rule by which rows are independent")
    return rule(node, known)
