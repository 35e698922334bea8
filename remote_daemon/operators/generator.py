"""The state of the CPU's generator as a value: a recomputation draws the numbers that were drawn the first time."""

from __future__ import annotations

import torch

from dynamo_genie.torch_internals.operators import FunctionSchema, parse_schema

STATE_SCHEMA: FunctionSchema = parse_schema("genie::generator_state() -> Tensor")
SET_STATE_SCHEMA: FunctionSchema = parse_schema("genie::set_generator_state(Tensor state) -> ()")


def generator_state(device: torch.device) -> torch.Tensor:
    """Return the state of the generator from which operators draw, whatever device they run on."""
    return torch.get_rng_state().to(device)


def set_generator_state(state: torch.Tensor) -> None:
    """Let operators draw as from this state on.

    Raises:
        RuntimeError: It is no state of a generator.
    """
    torch.set_rng_state(state.cpu())
