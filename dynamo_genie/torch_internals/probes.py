"""All probes of this room, and what they find in the running torch."""

from __future__ import annotations

from collections.abc import Iterator
from pkgutil import resolve_name

from dynamo_genie.torch_internals.probe import SEEN, MissingHook, Probe

FILES = (
    "capture", "compile_context", "descriptors", "device.probes", "effect_tokens", "fake",
    "graph_capture", "guarded_memory", "guards", "higher_order", "inductor", "input_guards", "opaque", "operators",
    "pytree", "subscript", "tensors",
)  # fmt: skip
"""The modules of this room that hold hooks."""


def probe_all() -> tuple[MissingHook, ...]:
    """Run every probe, and return the hooks that the running torch lacks.

    Slow, since it imports all of torch that this package uses, TorchInductor among it.
    """
    return tuple(missing for name in FILES for missing in _missing(name))


def _missing(name: str) -> Iterator[MissingHook]:
    """Yield what one module lacks; each module is imported by itself, so that one loss does not hide another."""
    try:
        probes: tuple[Probe, ...] = resolve_name(f"dynamo_genie.torch_internals.{name}:PROBES")
    except (ImportError, AttributeError) as error:
        yield MissingHook(f"what torch_internals.{name} imports", "is needed there", SEEN, str(error))
        return
    yield from (missing for probe in probes if (missing := probe.run()) is not None)
