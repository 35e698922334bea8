"""Run PyTorch models on an accelerator elsewhere: `torch.compile(model, backend="genie")`.

Importing this package imports neither torch nor ZeroMQ; the functions below do when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_genie.api import (
        connect,
        load_weights,
        refresh,
        register_device,
        reset_stats,
        shutdown,
        stats,
        synchronize,
        to_local,
    )

__all__ = [
    "connect", "load_weights", "refresh", "register_device", "reset_stats", "shutdown", "stats", "synchronize",
    "to_local",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__") and name.endswith("__"))])


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dynamo_genie import api

    return getattr(api, name)
