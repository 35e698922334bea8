"""Whether doing a call again gives the same bits: not for every kernel of a GPU, and not for code that was compiled."""

from __future__ import annotations

from dynamo_genie.runtime.wire import program as p

COMPILING = frozenset({"inductor", "tensorrt"})
"""Engines whose code rounds otherwise than what runs until it is ready."""

UNSTEADY = frozenset(
    f"aten.{name}"
    for name in (
        "_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward _ctc_loss_backward _embedding_bag_backward "
        "_embedding_bag_dense_backward _index_put_impl_ adaptive_max_pool2d_backward avg_pool3d_backward bincount "
        "convolution convolution_backward cumsum cumsum_ embedding_dense_backward fractional_max_pool2d_backward "
        "fractional_max_pool3d_backward grid_sampler_2d_backward grid_sampler_3d_backward histc index_add index_add_ "
        "index_copy index_copy_ index_put index_put_ kthvalue "
        "max_pool3d_with_indices_backward max_unpool2d max_unpool3d "
        "median nll_loss2d_forward put put_ reflection_pad1d_backward reflection_pad2d_backward "
        "reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward "
        "scatter_add scatter_add_ scatter_reduce scatter_reduce_ upsample_bicubic2d_backward "
        "upsample_bilinear2d_backward upsample_linear1d_backward upsample_nearest1d_backward "
        "upsample_nearest2d_backward upsample_nearest3d_backward upsample_trilinear3d_backward"
    ).split()
)
"""Operators that on a GPU need not give the same bits twice, by what `torch.use_deterministic_algorithms` says."""


def why_unsteady(program: p.Program, engine: str, device: str) -> str:
    """Return why a program need not give the same bits again on a kind of device; empty where it does."""
    if engine in COMPILING:
        return f"it was computed with engine={engine!r}, whose code may round otherwise the second time"
    if device != "cpu":
        for node in (*program.nodes, *(node for body in program.subprograms for node in body.nodes)):
            if node.op.rpartition(".")[0] in UNSTEADY:
                return f"{node.op}, of which it was computed, need not give the same bits twice on this device"
    return ""
