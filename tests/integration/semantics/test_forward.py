"""The forward pass of encoders and of models with two towers gives the bits of eager, every output included."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.integration.compare import same
from tests.integration.conftest import Compile
from tests.integration.models import Prompt, image_prompt, make_model, token_prompt

_TOKENS = token_prompt(batch=2, length=10, left_padding=3)
_BOTH = Prompt({**_TOKENS.inputs, **image_prompt().inputs})

INPUTS = {
    "bert": _TOKENS,
    "distilbert": _TOKENS,
    "vit": image_prompt(),
    "convnext": image_prompt(size=32),
    "clip": _BOTH,
    "siglip": _BOTH,
}


@pytest.mark.parametrize("name", INPUTS)
def test_outputs_equal_eager(name: str, compiled: Compile) -> None:
    eager = make_model(name)
    remote = copy.deepcopy(eager)
    remote.forward = compiled(remote.forward)
    inputs = INPUTS[name].inputs
    with torch.no_grad():
        expected = eager(**inputs)
        for _ in range(2):
            same(dict(remote(**inputs)), dict(expected))


def test_hidden_states_and_attentions_equal_eager(compiled: Compile) -> None:
    eager = make_model("bert")
    eager.set_attn_implementation("eager")
    remote = compiled(copy.deepcopy(eager))
    with torch.no_grad():
        wanted = dict(output_hidden_states=True, output_attentions=True)
        actual = remote(**_TOKENS.inputs, **wanted)
        expected = eager(**_TOKENS.inputs, **wanted)
    assert len(expected.hidden_states) == 3 and len(expected.attentions) == 2
    same(dict(actual), dict(expected))


def test_inputs_are_left_as_they_were(compiled: Compile) -> None:
    inputs = {name: value.clone() for name, value in _BOTH.inputs.items()}
    with torch.no_grad():
        compiled(make_model("clip"))(**inputs)
    same(inputs, _BOTH.inputs)
