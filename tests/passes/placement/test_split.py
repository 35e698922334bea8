"""A model that runs partition by partition gives bit for bit what it gives in one piece."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from dynamo_genie.passes.graphs.semantics import facts_of
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.split import split
from tests.captured import capture
from tests.integration.models import audio_prompt, image_prompt, make_model, token_prompt
from tests.placed import PLENTY, Daemons, make_topology, prepare, run_in_partitions


def two_tight(weights: int) -> tuple[int, ...]:
    """Less than the model on each of two devices, with room for an embedding that is used twice and for caches."""
    return (weights * 4 // 5 + 8_000,) * 2


WAYS: dict[str, Callable[[], Daemons]] = {
    "semantic": lambda: Daemons(two_tight),
    "blind": lambda: Daemons(lambda _: (PLENTY, PLENTY, PLENTY), "blind", 1),
    "semantic, one is enough": lambda: Daemons(lambda _: (PLENTY, PLENTY)),
    "semantic, scattered inputs": lambda: Daemons(lambda _: (PLENTY, PLENTY, PLENTY), scattered=True, seed=3),
    "blind, another seed": lambda: Daemons(lambda _: (PLENTY, PLENTY), "blind", 0),
    "blind, scattered inputs": lambda: Daemons(lambda _: (PLENTY, PLENTY), "blind", 2, scattered=True),
}
every_way = pytest.mark.parametrize("way", WAYS)
some_ways = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way in ("semantic", "blind") else [pytest.mark.slow]) for way in WAYS]
)
GENERATE = dict(max_new_tokens=5, min_new_tokens=5, do_sample=False)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@some_ways
@pytest.mark.parametrize(
    ("name", "cache"), [("gpt2", "dynamic"), ("gpt2", "static"), ("llama", "static"), ("gemma3", "dynamic")]
)
def test_generation_is_token_identical(name: str, cache: str, way: str) -> None:
    model, daemons = make_model(name), WAYS[way]()
    inputs = token_prompt(length=7).inputs
    options = {**GENERATE, "cache_implementation": cache}
    expected = model.generate(**inputs, **options)
    model.forward, _ = capture(model.forward, daemons)
    assert torch.equal(model.generate(**inputs, **options), expected)
    if way in ("semantic", "blind"):
        assert all(len(plan.partitions) > 1 for plan in daemons.plans)


def clip_inputs() -> dict[str, torch.Tensor]:
    return {**token_prompt(batch=2).inputs, **image_prompt().inputs}


def seq2seq_inputs() -> dict[str, torch.Tensor]:
    return {**token_prompt().inputs, "decoder_input_ids": token_prompt(length=4, seed=5).inputs["input_ids"]}


FORWARDS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "bert": lambda: token_prompt(batch=2, left_padding=2).inputs,
    "clip": clip_inputs,
    "t5": seq2seq_inputs,
    "vit": lambda: image_prompt().inputs,
    "convnext": lambda: image_prompt(size=32).inputs,
    "mixtral": lambda: token_prompt().inputs,
    "whisper": lambda: {**audio_prompt().inputs, "decoder_input_ids": token_prompt(length=4).inputs["input_ids"]},
}


@some_ways
@pytest.mark.parametrize("name", FORWARDS)
def test_one_forward_pass_is_bitwise_equal(name: str, way: str) -> None:
    model, daemons, inputs = make_model(name), WAYS[way](), FORWARDS[name]()
    run = lambda: model(**inputs, return_dict=False)
    with torch.no_grad():
        expected = run()
        model.forward, _ = capture(model.forward, daemons)
        actual = run()
    flat = [torch.utils._pytree.tree_flatten(result)[0] for result in (expected, actual)]
    assert same(
        [x for x in flat[0] if isinstance(x, torch.Tensor)], [x for x in flat[1] if isinstance(x, torch.Tensor)]
    )


@every_way
def test_a_training_step_with_dropout_draws_the_same_numbers(way: str) -> None:
    model, twin = make_model("bert", dropout=0.3).train(), make_model("bert", dropout=0.3).train()
    inputs = {**token_prompt(batch=2).inputs, "labels": torch.tensor([0, 2])}
    model.forward, captured = capture(model.forward, WAYS[way]())
    for each in (model, twin):
        torch.manual_seed(7)
        each(**inputs).loss.backward()
    assert captured.backward
    gradients = [(name, one.grad, dict(twin.named_parameters())[name].grad) for name, one in model.named_parameters()]
    assert all(same(one, other) for _, one, other in gradients)


@every_way
def test_a_norm_that_counts_batches_writes_where_its_statistics_are(way: str) -> None:
    make = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    torch.manual_seed(0)
    model = make()
    twin = make()
    twin.load_state_dict(model.state_dict())
    compiled, _ = capture(model, WAYS[way]())
    batch = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(compiled(batch), twin(batch))
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), twin.buffers(), strict=True))


@every_way
def test_what_reads_an_input_before_it_is_written_sees_the_old_contents(way: str) -> None:
    weights = [torch.randn(8, 8) for _ in range(3)]

    def step(state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        early = (x @ weights[0]) * state
        new = early @ weights[1]
        late = state.t() @ weights[2]
        state.copy_(new)
        return late + state

    state, x = torch.randn(8, 8), torch.randn(8, 8)
    twin = state.clone()
    compiled, _ = capture(step, WAYS[way]())
    assert torch.equal(compiled(state, x), step(twin, x))
    assert torch.equal(state, twin)


def test_parts_keep_names_metadata_and_constants() -> None:
    kept: list[tuple[GraphModule, tuple[GraphModule, ...]]] = []

    def replace(gm: GraphModule) -> Any:
        gm, _ = prepare(gm)
        plan = place(gm, make_topology((PLENTY, PLENTY)), homes={}, policy="blind", seed=1)
        kept.append((gm, split(gm, plan.partitions)))
        return run_in_partitions(gm, plan)

    weights = [torch.randn(4, 4) for _ in range(6)]

    def model(x: torch.Tensor) -> torch.Tensor:
        for weight in weights:
            x = (x @ weight) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return x

    compiled, _ = capture(model, replace)
    x = torch.randn(4, 4)
    assert torch.equal(compiled(x), model(x))
    gm, parts = kept[0]
    assert len(parts) > 1
    originals = {node.name: node for node in gm.graph.nodes}
    for node in (node for part in parts for node in part.graph.nodes if node.op != "output"):
        assert node.meta["val"] is originals[node.name].meta["val"] if "val" in originals[node.name].meta else True
        assert facts_of(node) == facts_of(originals[node.name])
        assert node.target == originals[node.name].target or node.op == "placeholder"
