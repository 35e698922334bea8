"""Models in pieces of rows: the graph that the compiler captures, cut, gives what it gives whole.

Where certificates say that all kernels have the bits of the whole, so have the results.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from dynamo_genie.passes.pipelines.seeds import find_seeds
from dynamo_genie.passes.rows.analysis import RowAnalysis, find_most_rows, find_rows, reasons
from dynamo_genie.passes.rows.certificates import comparison, kernels_of
from dynamo_genie.passes.rows.cut_rows import CutGraph, cut_rows
from dynamo_genie.passes.rows.pieces import pieces_at
from dynamo_genie.passes.rows.template import Axis
from tests.passes.families import make
from tests.passes.rows.in_pieces import Described, is_same
from tests.passes.understood import Understood, understand

VOCAB, TOKENS, SAMPLES = 64, 24, 8
SHAPE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip

DECODERS: Mapping[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=2048)
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE, num_key_value_heads=2)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SHAPE, num_key_value_heads=2)),
    "mistral without a window": lambda: hf.MistralForCausalLM(
        hf.MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=None)
    ),
}
SEEING: Mapping[str, Callable[[], nn.Module]] = {
    "vit": lambda: make("vit"),
    "convnext": lambda: make("convnext"),
    "resnet": lambda: make("resnet"),
    "clip": lambda: make("clip").vision_model,
    "dinov2": lambda: make("dinov2"),
}


def quick(names: Sequence[str], *often: str) -> list[Any]:
    """Return names as parameters; those that are not taken often are slow."""
    return [name if name in often else pytest.param(name, marks=pytest.mark.slow) for name in names]


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(6, VOCAB, (batch, length))


def pixels(model: str) -> Tensor:
    size = 32 if model == "convnext" else 16
    return torch.randn(SAMPLES, 3, size, size)


def captured(model: nn.Module, **inputs: Any) -> Understood:
    """Return the one graph of a call of a model, with what it was given and returned."""
    compiled, calls = understand(lambda **given: model(**given).to_tuple())
    with torch.no_grad():
        compiled(**inputs)
    (call,) = calls
    return call


def rows_of(call: Understood, inputs: Sequence[Tensor], dim: int) -> RowAnalysis:
    """Return what runs in pieces of rows along a dimension of some inputs."""
    nodes = zip(call.gm.graph.find_nodes(op="placeholder"), call.inputs, strict=True)
    seeds = {node: Axis(dim) for node, value in nodes if any(value is each for each in inputs)}
    assert len(seeds) == len(inputs)
    return find_rows(call.gm, seeds, inputs[0].shape[dim])


@dataclass(frozen=True)
class Checked:
    """A graph in pieces whose results are right, and the kernels that are said to round otherwise."""

    cut: CutGraph
    refuted: tuple[str, ...]


def check(call: Understood, analysis: RowAnalysis, boundaries: Sequence[int]) -> Checked:
    """Run a graph in pieces, and compare its results: bit for bit, if certificates say so."""
    pieces = pieces_at(boundaries)
    cut = cut_rows(call.gm, analysis, pieces)
    kernels = kernels_of(analysis, pieces)
    with torch.no_grad():
        said = comparison(kernels, analysis, pieces)()
        got = Described(cut.gm).run(*call.inputs)
    refuted = tuple(kernel.text for kernel, equal in zip(kernels, said, strict=True) if not equal)
    results = [(one, other) for one, other in zip(got, call.outputs, strict=True) if isinstance(other, Tensor)]
    assert results
    assert all(is_same(one, other, exact=not refuted) for one, other in results)
    return Checked(cut, refuted)


@pytest.mark.parametrize("name", quick(list(DECODERS), "llama"))
def test_a_prompt_in_pieces_of_tokens(name: str) -> None:
    prompt = ids(2, TOKENS)
    call = captured(DECODERS[name]().eval(), input_ids=prompt, use_cache=True)
    analysis = rows_of(call, [prompt], 1)
    assert analysis.refused == {}
    assert not check(call, analysis, [0, 8, 16, 24]).cut.late
    check(call, analysis, [0, 1, 2, 24])


@pytest.mark.parametrize("name", quick(list(DECODERS), "gpt2"))
@pytest.mark.parametrize(
    ("batch", "dtype"),
    [
        (1, torch.float32),
        pytest.param(2, torch.float32, marks=pytest.mark.slow),
        pytest.param(2, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_pieces_of_whole_blocks_of_attention_have_the_bits_of_the_prompt(
    name: str, batch: int, dtype: torch.dtype
) -> None:
    """Attention takes 512 keys at a time, and 256 queries; it meets the same blocks then."""
    prompt = ids(batch, 1300)
    call = captured(DECODERS[name]().eval().to(dtype), input_ids=prompt, use_cache=True, logits_to_keep=1)
    (seeds,) = find_seeds(call.gm)
    assert (seeds.what, seeds.rows) == ("tokens", 1300)
    analysis = find_rows(call.gm, seeds.axes, seeds.rows)
    assert reasons(analysis) == ()
    assert check(call, analysis, [0, 512, 1024, 1300]).refuted == ()


@pytest.mark.parametrize("name", quick(list(DECODERS), "gpt2"))
def test_prompts_in_pieces_of_samples(name: str) -> None:
    prompts = ids(SAMPLES, 12)
    call = captured(DECODERS[name]().eval(), input_ids=prompts, use_cache=True)
    analysis = rows_of(call, [prompts], 0)
    assert analysis.refused == {}
    check(call, analysis, [0, 4, 8])
    check(call, analysis, [0, 1, 8])


@pytest.mark.parametrize("name", quick(list(SEEING), "vit", "resnet"))
def test_images_in_pieces(name: str) -> None:
    images = pixels(name)
    call = captured(SEEING[name]().eval(), pixel_values=images)
    (seeds,) = find_seeds(call.gm)
    assert (seeds.what, seeds.rows) == ("samples", SAMPLES)
    analysis = rows_of(call, [images], 0)
    assert analysis.refused == {}
    assert analysis.seeds == seeds.axes
    check(call, analysis, [0, 4, 8])
    check(call, analysis, [0, 1, 8])


def test_sentences_in_pieces() -> None:
    sentences = ids(SAMPLES, 12)
    call = captured(make("bert"), input_ids=sentences, token_type_ids=torch.zeros_like(sentences))
    tokens = [value for value in call.inputs if isinstance(value, Tensor) and value.shape == sentences.shape]
    analysis = rows_of(call, tokens, 0)
    assert analysis.refused == {}
    check(call, analysis, [0, 4, 8])


@pytest.mark.parametrize("name", quick(["bert", *DECODERS, "t5"], "bert"))
def test_padding_stops_no_sample(name: str) -> None:
    """Its rows are lost where it is looked up by position; of all of it attention takes those of a piece."""
    sentences = ids(SAMPLES, 12)
    inputs = with_mask(sentences) | ({"decoder_input_ids": sentences[:, :4].clone()} if name == "t5" else {})
    call = captured(DECODERS.get(name, lambda: make(name))().eval(), **inputs)
    alone = rows_of(call, list(inputs.values()), 0)
    assert "is indexed along several dimensions" in reasons(alone)[0]
    analysis = find_most_rows(call.gm, alone.seeds, SAMPLES)
    assert analysis.refused == {}
    assert len(analysis.seeds) == len(inputs) - 1
    assert check(call, analysis, [0, 4, 8]).refuted == ()


@dataclass(frozen=True)
class Whole:
    """A call that is cut in part: why, and along which dimension."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    dim: int
    reason: str


def with_mask(tokens: Tensor) -> dict[str, Tensor]:
    mask = torch.ones_like(tokens)
    mask[:, :3] = 0
    return {"input_ids": tokens, "attention_mask": mask}


WHOLE: Mapping[str, Whole] = {
    "a prompt with padding": Whole(
        DECODERS["llama"], lambda: with_mask(ids(2, TOKENS)), 1, "is indexed along several dimensions"
    ),
    "a prompt with a window": Whole(
        lambda: make("mistral"), lambda: {"input_ids": ids(1, TOKENS)}, 1, "attends along the rows with a mask"
    ),
    "an encoder along its tokens": Whole(
        lambda: make("bert"), lambda: {"input_ids": ids(1, TOKENS)}, 1, "attends along the rows in both directions"
    ),
    "a state space along its tokens": Whole(
        lambda: make("mamba"), lambda: {"input_ids": ids(1, 8)}, 1, "convolves along the rows"
    ),
    "experts, which sort all tokens": Whole(
        lambda: make("mixtral"), lambda: {"input_ids": ids(1, TOKENS)}, 1, "sort.default (sort) works along the rows"
    ),
}


@pytest.mark.parametrize("name", quick(list(WHOLE), "a prompt with padding"))
def test_what_needs_all_rows_is_made_after_the_pieces(name: str) -> None:
    whole = WHOLE[name]
    inputs = whole.inputs()
    call = captured(whole.model().eval(), **inputs)
    analysis = rows_of(call, list(inputs.values()), whole.dim)
    assert analysis.found
    assert analysis.late
    assert any(whole.reason in reason for reason in reasons(analysis)), reasons(analysis)
    rows = analysis.rows
    check(call, analysis, [0, rows // 3, rows])
