"""Models of any size with seeded random weights, made quickly: nothing is initialised twice, or in Python.

The weights are normal, wide enough that greedy decoding does not settle on one token at once, and norms are what they
are when they are new. On a machine with CUDA its generator draws them: another one than the CPU's, the same in all
processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_SPREAD = 0.25
_NARROWEST = 32


@dataclass(frozen=True)
class FreshWeight:
    """A parameter of a new model by its name: drawn with this standard deviation, or one value where that is 0."""

    name: str
    parameter: nn.Parameter
    spread: float
    value: float


def build_seeded(architecture: str, config: Any, *, dtype: torch.dtype, device: str, seed: int) -> Any:
    """Return a model of transformers in evaluation mode.

    Args:
        architecture: Name of its class.
        config: Its configuration.
        dtype: Of parameters; buffers keep theirs.
        device: Where it shall live.
        seed: Of the weights.
    """
    model = empty_model(architecture, config, dtype)
    fill(model, seed)
    return model.to(device)


def empty_model(architecture: str, config: Any, dtype: torch.dtype) -> Any:
    """Return a model in evaluation mode whose buffers are what they should be, and whose weights nobody wrote yet.

    Memory that nobody wrote takes none of the machine's.
    """
    import transformers
    from transformers.initialization import no_init_weights

    model_class = getattr(transformers, architecture)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = model_class(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model.eval()


def fresh_weights(model: nn.Module) -> Iterator[FreshWeight]:
    """Say how each parameter begins, in the order of their names: those of one dimension are 1 in norms, else 0."""
    norms = {id(module.weight) for module in model.modules() if _is_norm(module)}
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        if parameter.dim() < 2:
            yield FreshWeight(name, parameter, 0.0, 1.0 if id(parameter) in norms else 0.0)
        else:
            spread = _SPREAD * (_NARROWEST / max(_NARROWEST, parameter.shape[-1])) ** 0.5
            yield FreshWeight(name, parameter, spread, 0.0)


def fill(model: nn.Module, seed: int) -> None:
    """Draw all weights of more than one dimension, in the order of their names, and set the others."""
    drawn_on = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(drawn_on).manual_seed(seed)
    with torch.no_grad():
        for fresh in fresh_weights(model):
            parameter = fresh.parameter
            if not fresh.spread:
                parameter.fill_(fresh.value)
                continue
            drawn = torch.empty(parameter.shape, dtype=torch.float32, device=drawn_on)
            parameter.copy_(drawn.normal_(0.0, fresh.spread, generator=generator).to(parameter.dtype))
    if drawn_on == "cuda":
        torch.cuda.empty_cache()  # the daemons beside this process want it


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), nn.Parameter)
