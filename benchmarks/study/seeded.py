"""Models of any size with seeded random weights, made quickly: nothing is initialised twice, or in Python.

The weights are normal, wide enough that greedy decoding does not settle on one token at once, and norms are what they
are when they are new. On a machine with CUDA its generator draws them: another one than the CPU's, the same in all
processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_SPREAD = 0.25
_NARROWEST = 32


def build_seeded(architecture: str, config: Any, *, dtype: torch.dtype, device: str, seed: int) -> Any:
    """Return a model of transformers in evaluation mode.

    Args:
        architecture: Name of its class.
        config: Its configuration.
        dtype: Of parameters; buffers keep theirs.
        device: Where it shall live.
        seed: Of the weights.
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
    fill(model, seed)
    return model.eval().to(device)


def fill(model: nn.Module, seed: int) -> None:
    """Draw all weights of more than one dimension, in the order of their names; others are 1 in norms, else 0."""
    drawn_on = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(drawn_on).manual_seed(seed)
    norms = {id(module.weight) for module in model.modules() if _is_norm(module)}
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
            if parameter.dim() < 2:
                parameter.fill_(1.0 if id(parameter) in norms else 0.0)
                continue
            spread = _SPREAD * (_NARROWEST / max(_NARROWEST, parameter.shape[-1])) ** 0.5
            drawn = torch.empty(parameter.shape, dtype=torch.float32, device=drawn_on)
            parameter.copy_(drawn.normal_(0.0, spread, generator=generator).to(parameter.dtype))
    if drawn_on == "cuda":
        torch.cuda.empty_cache()  # the daemons beside this process want it


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), nn.Parameter)
