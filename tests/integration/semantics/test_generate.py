"""`generate()` gives the same tokens as eager: twelve architectures, both kinds of cache, every common way to decode.

Each case compiles `forward` of a copy of the model, as users do; the copy and the original decode with equal seeds.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig

from tests.integration.conftest import Compile
from tests.integration.models import Prompt, audio_prompt, make_model, token_prompt

DECODERS = ("gpt2", "gptj", "gpt_neox", "llama", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "mixtral")
ENCODER_DECODERS = ("t5", "bart", "whisper")
ALL_MODELS = (*DECODERS, *ENCODER_DECODERS)
FAST = ("gpt2",)
"""Models whose whole table runs in the fast suite; the others are in it where a test says so."""

NEW_TOKENS = 8


def cases(names: tuple[str, ...], fast: tuple[str, ...] = FAST) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def prompt_for(name: str, *, batch: int = 1, left_padding: int = 0) -> Prompt:
    if name == "whisper":
        return audio_prompt(batch=batch)
    prompt = token_prompt(batch=batch, left_padding=left_padding)
    if name in ENCODER_DECODERS:  # with random weights they would say one token again and again
        prompt.options["no_repeat_ngram_size"] = 1
    return prompt


def generate(model: nn.Module, prompt: Prompt, **options: Any) -> Tensor:
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **prompt.options, **options}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        return model.generate(**prompt.inputs, **options)


class Pair:
    """A model and a copy of it whose `forward` is compiled."""

    def __init__(self, name: str, compiled: Compile) -> None:
        self.eager = make_model(name)
        self.remote = copy.deepcopy(self.eager)
        self.remote.forward = compiled(self.remote.forward)

    def assert_equal_tokens(self, prompt: Prompt, **options: Any) -> None:
        expected = generate(self.eager, prompt, **options)
        assert expected.unique().numel() > 3, "a model that repeats itself would hide a wrong cache"
        actual = generate(self.remote, prompt, **options)
        assert torch.equal(actual, expected), f"{actual.tolist()}, expected {expected.tolist()}"


@pytest.mark.parametrize("name", cases(ALL_MODELS, fast=("gpt2", "mistral", "t5", "whisper")))
def test_greedy_and_sampled_tokens_equal_eager(name: str, compiled: Compile) -> None:
    pair = Pair(name, compiled)
    prompt = prompt_for(name)
    pair.assert_equal_tokens(prompt)
    pair.assert_equal_tokens(prompt, do_sample=True, temperature=0.8)
    pair.assert_equal_tokens(prompt, do_sample=True, top_k=20, top_p=0.9)


@pytest.mark.parametrize("name", cases(ALL_MODELS))
def test_static_cache_tokens_equal_eager(name: str, compiled: Compile) -> None:
    pair = Pair(name, compiled)
    pair.assert_equal_tokens(prompt_for(name), cache_implementation="static")
    pair.assert_equal_tokens(prompt_for(name), cache_implementation="static", do_sample=True)


@pytest.mark.parametrize("name", cases(ALL_MODELS))
def test_batch_with_left_padding_equals_eager(name: str, compiled: Compile) -> None:
    pair = Pair(name, compiled)
    prompt = prompt_for(name, batch=2, left_padding=3)
    pair.assert_equal_tokens(prompt)
    pair.assert_equal_tokens(prompt, do_sample=True)


@pytest.mark.parametrize("name", cases(ALL_MODELS, fast=()))
def test_batch_with_left_padding_and_static_cache_equals_eager(name: str, compiled: Compile) -> None:
    prompt = prompt_for(name, batch=2, left_padding=3)
    Pair(name, compiled).assert_equal_tokens(prompt, cache_implementation="static")


@pytest.mark.parametrize("name", cases(ALL_MODELS))
def test_beam_search_equals_eager(name: str, compiled: Compile) -> None:
    Pair(name, compiled).assert_equal_tokens(prompt_for(name), num_beams=3)


@pytest.mark.parametrize("name", cases(("gpt2", "mistral", "t5"), fast=()))
def test_beam_search_with_static_cache_equals_eager(name: str, compiled: Compile) -> None:
    Pair(name, compiled).assert_equal_tokens(prompt_for(name), num_beams=3, cache_implementation="static")


@pytest.mark.parametrize("name", cases(("gpt2", "llama", "mistral", "gemma3"), fast=()))
def test_sequence_far_beyond_the_sliding_window_equals_eager(name: str, compiled: Compile) -> None:
    Pair(name, compiled).assert_equal_tokens(prompt_for(name), max_new_tokens=24)


@pytest.mark.slow
def test_second_prompt_of_another_length_equals_eager(compiled: Compile) -> None:
    pair = Pair("llama", compiled)
    for length in (5, 11, 8):
        pair.assert_equal_tokens(token_prompt(length=length, seed=length))


def test_dynamic_generate_of_gpt2_compiles_at_most_three_graphs(compiled: Compile) -> None:
    Pair("gpt2", compiled).assert_equal_tokens(prompt_for("gpt2"), max_new_tokens=16)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_module_compile_gives_the_same_tokens(backend: Any) -> None:
    eager = make_model("gpt2")
    remote = copy.deepcopy(eager)
    remote.compile(backend=backend)
    prompt = token_prompt()
    assert torch.equal(generate(remote, prompt), generate(eager, prompt))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_backend_named_in_the_compile_config_of_generate_is_used(backend: Any) -> None:
    eager = make_model("gpt2")
    remote = copy.deepcopy(eager)
    config = CompileConfig(backend=backend, mode=None, fullgraph=False)
    config._compile_all_devices = True  # else generate() compiles on accelerators only
    expected = generate(eager, token_prompt(), cache_implementation="static")
    options = dict(cache_implementation="static", disable_compile=False, compile_config=config)
    assert torch.equal(generate(remote, token_prompt(), **options), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


@pytest.mark.slow
def test_decoder_compiled_alone_gives_the_tokens_of_eager(compiled: Compile) -> None:
    eager = make_model("t5")
    remote = copy.deepcopy(eager)
    remote.decoder.forward = compiled(remote.decoder.forward)
    assert torch.equal(generate(remote, token_prompt()), generate(eager, token_prompt()))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_tokens_equal_eager(dtype: torch.dtype, compiled: Compile) -> None:
    eager = make_model("llama").to(dtype)
    remote = copy.deepcopy(eager)
    remote.forward = compiled(remote.forward)
    assert torch.equal(generate(remote, token_prompt()), generate(eager, token_prompt()))
