"""AOTAutograd's notes on the inputs of ATen graphs, `node.meta["desc"]`: which parameter, buffer or gradient each was.

Relies on every placeholder having such a note, with `idx`, the position in the Dynamo graph, on plain ones, and
`base`, the whole, on parts of a wrapped tensor.
"""

from __future__ import annotations

from torch._functorch._aot_autograd.descriptors import (
    AOTInput,
    BufferAOTInput,
    ParamAOTInput,
    PlainAOTInput,
    SubclassGetAttrAOTInput,
    TangentAOTInput,
)

from dynamo_genie.torch_internals.capture import capture_samples
from dynamo_genie.torch_internals.probe import Probe, require

__all__ = [
    "AOTInput",
    "BufferAOTInput",
    "ParamAOTInput",
    "PlainAOTInput",
    "SubclassGetAttrAOTInput",
    "TangentAOTInput",
]


def _notes(kind: str) -> list[object]:
    return [node.meta.get("desc") for node in capture_samples()[kind].inputs]


def _check_inputs() -> None:
    notes = _notes("inference")
    require(bool(notes) and all(isinstance(note, AOTInput) for note in notes), "each input of a graph has a note")


def _check_plain() -> None:
    plain = [note for note in _notes("inference") if isinstance(note, PlainAOTInput)]
    require(bool(plain) and all(isinstance(note.idx, int) for note in plain), "plain inputs know their position")


def _check_tangents() -> None:
    require(any(isinstance(note, TangentAOTInput) for note in _notes("backward")), "gradients are noted as tangents")


def _check_part() -> None:
    part = SubclassGetAttrAOTInput(PlainAOTInput(idx=0), "carrier")
    require(isinstance(part.base, PlainAOTInput), "a part knows the whole")


PROBES = tuple(
    Probe(f"torch._functorch._aot_autograd.descriptors.{name}", purpose, check)
    for name, purpose, check in (
        ("AOTInput", "tells what an input of an ATen graph was", _check_inputs),
        ("ParamAOTInput", "tells parameters from other inputs", lambda: issubclass(ParamAOTInput, AOTInput)),
        ("BufferAOTInput", "tells buffers from other inputs", lambda: issubclass(BufferAOTInput, AOTInput)),
        ("PlainAOTInput", "finds an input of a Dynamo graph again", _check_plain),
        ("SubclassGetAttrAOTInput", "finds the whole of a wrapped tensor's part", _check_part),
        ("TangentAOTInput", "tells gradients from other inputs", _check_tangents),
    )
)
