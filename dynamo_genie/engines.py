"""What may run a program in a daemon. The names only; how each one works is the daemon's business."""

from __future__ import annotations

from types import MappingProxyType

AUTO = "auto"
EAGER = "eager"
INDUCTOR = "inductor"
CUDAGRAPHS = "cudagraphs"
TENSORRT = "tensorrt"

ENGINES = MappingProxyType(
    {
        AUTO: "the daemon chooses for each program, by its phase and by what the device can do",
        EAGER: "operator by operator, as eager PyTorch",
        INDUCTOR: "compiled by TorchInductor in the background; calls run eager until it is ready",
        CUDAGRAPHS: "recorded once as a CUDA graph on resident buffers, then replayed",
        TENSORRT: "compiled by torch-tensorrt, where that is installed on the daemon's machine",
    }
)
"""What `options={"engine": ...}` calls it, and what it does."""
