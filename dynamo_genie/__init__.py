"""Run PyTorch models on an accelerator elsewhere: `torch.compile(model, backend="genie")`.

Importing this package imports neither torch nor ZeroMQ; the functions below do when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_genie.api import connect, refresh, reset_stats, shutdown, stats, synchronize

__all__ = ["connect", "refresh", "reset_stats", "shutdown", "stats", "synchronize"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo_genie import api

    return getattr(api, name)
