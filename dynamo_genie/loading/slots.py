"""The places for tensors in a model: where each parameter and buffer stands, by name, and which are one tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from dynamo_genie.errors import ModelFileError
from dynamo_genie.runtime.wire import messages as m

MAX_SHOWN = 20


@dataclass(frozen=True)
class Slot:
    """One place: `module` has a tensor under `key`, and `saved` says whether files have it."""

    name: str
    module: torch.nn.Module
    key: str
    is_parameter: bool
    saved: bool

    @property
    def tensor(self) -> torch.Tensor:
        """The tensor that is there."""
        tensor = (self.module._parameters if self.is_parameter else self.module._buffers)[self.key]
        assert tensor is not None
        return tensor

    def put(self, tensor: torch.Tensor) -> None:
        """Put another tensor there; a parameter must be one."""
        if self.is_parameter:
            assert isinstance(tensor, torch.nn.Parameter)
            self.module._parameters[self.key] = tensor
        else:
            self.module._buffers[self.key] = tensor


@dataclass(frozen=True)
class Target:
    """A tensor of a model, and all places where it stands: tied weights have several."""

    tensor: torch.Tensor
    slots: tuple[Slot, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which a file may have it."""
        return tuple(slot.name for slot in self.slots if slot.saved)

    def put(self, tensor: torch.Tensor) -> None:
        """Put another tensor in its places: as a parameter that wants gradients as it did, where it is one."""
        if any(slot.is_parameter for slot in self.slots):
            tensor = torch.nn.Parameter(tensor, self.tensor.requires_grad)
        for slot in self.slots:
            slot.put(tensor)


class LoadedWeights(NamedTuple):
    """What `load_weights` did not find, as `Module.load_state_dict` says it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


@dataclass(frozen=True)
class LoadingPlan:
    """What is to be loaded: each target with the tensor of the file that fills it; and what of a model is left."""

    chosen: tuple[tuple[Target, m.ModelTensor], ...]
    left: tuple[Target, ...]
    unmatched: LoadedWeights


def targets_of(model: torch.nn.Module) -> list[Target]:
    """Return the tensors of a model."""
    found: dict[int, list[Slot]] = {}
    for slot in _slots(model):
        found.setdefault(id(slot.tensor), []).append(slot)
    return [Target(slots[0].tensor, tuple(slots)) for slots in found.values()]


def _slots(model: torch.nn.Module) -> Iterator[Slot]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        at = f"{prefix}." if prefix else ""
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield Slot(at + key, module, key, is_parameter=True, saved=True)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                saved = key not in module._non_persistent_buffers_set
                yield Slot(at + key, module, key, is_parameter=False, saved=saved)


def plan_loading(model: torch.nn.Module, stored: Iterable[m.ModelTensor], source: str, *, strict: bool) -> LoadingPlan:
    """Work out what of a file goes where.

    Raises:
        ModelFileError: A shape is another one; or, where that is `strict`, names are missing or too many.
    """
    targets = targets_of(model)
    known = {name for target in targets for name in target.names}
    prefix = getattr(model, "base_model_prefix", "")
    by_name = {_name_in_model(tensor.name, known, prefix): tensor for tensor in stored}
    chosen = [(target, found) for target in targets if (found := _found(target, by_name)) is not None]
    order = {tensor.name: position for position, tensor in enumerate(by_name.values())}
    chosen.sort(key=lambda pair: order[pair[1].name])  # so files are read from the front to the end
    filled = {id(target) for target, _ in chosen}
    left = [target for target in targets if id(target) not in filled]
    missing = [target.names[0] for target in left if target.names]
    unmatched = LoadedWeights(missing, [tensor.name for name, tensor in by_name.items() if name not in known])
    problems = [_mismatch(target, found) for target, found in chosen if tuple(target.tensor.shape) != found.shape]
    if strict:
        problems += _listed("Missing in the file", unmatched.missing_keys)
        problems += _listed("Unexpected in the file", unmatched.unexpected_keys)
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        shown = "\n\t".join([*problems[:MAX_SHOWN], *more])
        raise ModelFileError(f"{source!r} does not fit {type(model).__name__}:\n\t{shown}")
    return LoadingPlan(tuple(chosen), tuple(left), unmatched)


def _name_in_model(name: str, known: Collection[str], prefix: object) -> str:
    """Return the name that a tensor of a file has in a model: files of `transformers` may lack its prefix."""
    if name in known or not isinstance(prefix, str) or not prefix:
        return name
    with_it, without = f"{prefix}.{name}", name.removeprefix(f"{prefix}.")
    return with_it if with_it in known else without if without in known else name


def _found(target: Target, by_name: Mapping[str, m.ModelTensor]) -> m.ModelTensor | None:
    """Return what fills a target; of several the last one, which `load_state_dict` would leave there."""
    return next((by_name[name] for name in reversed(target.names) if name in by_name), None)


def _mismatch(target: Target, found: m.ModelTensor) -> str:
    return f"size mismatch for {found.name}: {found.shape} in the file, {tuple(target.tensor.shape)} in the model"


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return [f"{what}: {', '.join(names[:MAX_SHOWN])}{more} (strict=False loads the others)"]
