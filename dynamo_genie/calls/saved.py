"""What a forward graph saves for its backward, and whether somebody changed that in between.

Autograd compares versions of what was saved, and raises where one rose. A value saved in a daemon is a tensor object of
its own, whose version nobody raises: it is held against that of the tensor whose memory it shows, an argument or a
result of the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.graphs.shared_memory import memory_of
from dynamo_genie.tensor.remote_tensor import RemoteTensor, source_of
from dynamo_genie.torch_internals.capture import is_saved_unchecked

_NOWHERE = -1


@dataclass(frozen=True)
class SavedValue:
    """An output that is saved for backward and shows the memory of an argument, or of a result that the program sees.

    Attributes:
        output: Its position among the outputs.
        argument, result: That argument's position, or that result's; -1 for the other.
        whole: Whether it is that argument or result itself, not a view of it.
    """

    output: int
    argument: int
    result: int
    whole: bool


def saved_values(placeholders: Sequence[Node], outputs: Sequence[Any], n_results: int) -> tuple[SavedValue, ...]:
    """Return the saved outputs of a forward graph whose memory the program can reach; it sees the first `n_results`."""
    arguments = {node: position for position, node in enumerate(placeholders)}
    results: dict[Node, int] = {}
    for position, node in enumerate(outputs[:n_results]):
        if isinstance(node, Node):
            memory = memory_of(node)
            if memory is node or memory not in results:  # if the whole is there, views are of that
                results[memory] = position
    found = []
    for position, node in enumerate(outputs[n_results:], n_results):
        if not isinstance(node, Node) or not isinstance(node.meta.get("val"), torch.Tensor) or is_saved_unchecked(node):
            continue
        memory = memory_of(node)
        argument, result = arguments.get(memory, _NOWHERE), results.get(memory, _NOWHERE)
        if argument != _NOWHERE:
            found.append(SavedValue(position, argument, _NOWHERE, memory is node))
        elif result != _NOWHERE:
            found.append(SavedValue(position, _NOWHERE, result, outputs[result] is node))
    return tuple(found)


def note_versions(saved: Sequence[SavedValue], args: Sequence[Any], results: list[Any]) -> None:
    """Remember of what is saved at which version it is; what is a result as well becomes the same object."""
    for value in saved:
        if value.result != _NOWHERE and value.whole:
            results[value.output] = results[value.result]
            continue
        kept, shown = results[value.output], args[value.argument] if value.result < 0 else results[value.result]
        shown = source_of(shown)
        if isinstance(kept, RemoteTensor) and isinstance(shown, torch.Tensor) and not shown.is_inference():
            with torch.no_grad():
                alias = shown.detach()  # has the same version for ever, and no history that would be kept alive
            kept.saved_from = alias, alias._version


def require_unmodified(args: Sequence[Any]) -> None:
    """Raise what autograd raises when something that was saved has been written to since.

    Raises:
        RuntimeError: An argument of a backward graph is not what the forward saved.
    """
    for arg in args:
        if isinstance(arg, RemoteTensor) and arg.saved_from is not None:
            alias, version = arg.saved_from
            if alias._version != version:
                kind = torch.empty(0, dtype=arg.dtype).type()
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"[{kind} {list(arg.shape)}] is at version {alias._version}; expected version {version} instead. "
                    "Hint: enable anomaly detection to find the operation that failed to compute its gradient, with "
                    "torch.autograd.set_detect_anomaly(True)."
                )
