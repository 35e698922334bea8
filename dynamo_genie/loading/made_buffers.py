"""Buffers that no file has, of a model made on `meta`: made by the model's own code, as `transformers` does.

A rotary embedding computes its frequencies when it is made; on `meta` nothing computes. The model's `_init_weights`
makes them again, which is asked here of the nearest module above that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from dynamo_genie.errors import ModelFileError
from dynamo_genie.loading.slots import Slot, Target


def make_buffers(model: torch.nn.Module, left: Iterable[Target]) -> None:
    """Make the buffers on `meta` that no file has, in the CPU's memory.

    Raises:
        ModelFileError: Nothing makes one of them; all are as they were.
    """
    targets = [target for target in left if not target.names and target.tensor.is_meta]
    wanted = [target.slots[0] for target in targets]
    modules = dict.fromkeys(slot.module for slot in wanted)
    before = [(slot, slot.tensor) for slot in wanted]
    try:
        for module in modules:
            _make(model, module, [slot for slot in wanted if slot.module is module])
    except BaseException:
        for slot, tensor in before:
            slot.put(tensor)
        raise
    for target in targets:
        target.put(target.slots[0].tensor)


def _make(model: torch.nn.Module, module: torch.nn.Module, slots: Sequence[Slot]) -> None:
    init = _init_of(model, slots[0].name)
    if init is None:
        raise _nothing_makes(slots[0])
    first, second = (_made(init, module, slots, filling) for filling in (0, 1))
    for slot, one, other in zip(slots, first, second, strict=True):
        if not torch.equal(one, other):  # something is left of what it was filled with
            raise _nothing_makes(slot)


def _nothing_makes(slot: Slot) -> ModelFileError:
    return ModelFileError(
        f"the buffer {slot.name!r} is on meta and in no file, and nothing makes it: make the model so that its buffers "
        "are real (accelerate.init_empty_weights(include_buffers=False)), or assign it before the weights are loaded"
    )


def _made(
    init: Callable[[torch.nn.Module], object], module: torch.nn.Module, slots: Sequence[Slot], filling: int
) -> list[torch.Tensor]:
    """Let a model's code make buffers over a filling; return them."""
    for slot in slots:
        slot.put(torch.full_like(slot.tensor, filling, device="cpu"))
    real = [(tensor, tensor.clone()) for tensor in module.state_dict().values() if not tensor.is_meta]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        init(module)
        for tensor, before in real:  # weights that the model has already are none of this
            tensor.copy_(before)
    return [slot.tensor for slot in slots]


def _init_of(model: torch.nn.Module, name: str) -> Callable[[torch.nn.Module], object] | None:
    """Return the `_init_weights` of the nearest module above a buffer."""
    path = name.split(".")[:-1]
    for depth in range(len(path), -1, -1):
        found = getattr(model.get_submodule(".".join(path[:depth])), "_init_weights", None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    return None
