"""Calls that stay whole: the plan says why, and gives what eager gives."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from tests.integration.compare import same
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.fleets.planned import LONG, VOCAB, WIDTH, Plans, long_llama, prompt
from tests.integration.fleets.test_pipelines_of_batches import images, made
from tests.integration.fleets.test_placement import remote_copy

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

TOKENS = 1100


@pytest.fixture(scope="module")
def pair() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


def bert() -> nn.Module:
    shape = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2 * WIDTH)
    return hf.BertModel(hf.BertConfig(**shape, vocab_size=VOCAB, max_position_embeddings=2048)).eval()


class Pooled(nn.Module):
    """The mean of what a model says of all tokens, and a layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.before, self.after = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 256), nn.Linear(256, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.after(self.before(self.table(ids)).relu().mean(1))


class Normalized(nn.Sequential):
    """Statistics of the batch."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3))


class Dropped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 128), nn.Dropout(0.5), nn.Linear(128, 64))


def equal_and_whole(pair: Fleet, plans: Plans, model: nn.Module, *words: str, **inputs: Tensor) -> None:
    """Both ways give the same, in pieces or not, from the same generator; and one of the reasons has these words."""
    remote = copy.deepcopy(model)
    with torch.no_grad():
        torch.manual_seed(3)
        expected = model(**inputs)
        torch.manual_seed(3)
        same(pair.compile(remote)(**inputs), expected)
    same(dict(remote.state_dict()), dict(model.state_dict()))
    assert plans.only.because(*words), plans.only.plan.reasons


def test_tokens_that_see_what_comes_after_them_stay_together(pair: Fleet, plans: Plans) -> None:
    equal_and_whole(pair, plans, bert(), "attends along the rows", input_ids=prompt(TOKENS))
    assert not plans.only.in_pieces


def test_a_mean_over_the_prompt_is_taken_of_all_of_it(pair: Fleet, plans: Plans) -> None:
    torch.manual_seed(0)
    equal_and_whole(pair, plans, Pooled().eval(), "mean", "reduces over the rows", ids=prompt(TOKENS))


def test_statistics_of_a_batch_are_those_of_all_of_it(pair: Fleet, plans: Plans) -> None:
    torch.manual_seed(0)
    equal_and_whole(pair, plans, Normalized().train(), "not in pieces of samples", "writes into", input=images())


def test_random_numbers_are_drawn_in_the_order_of_eager(pair: Fleet, plans: Plans) -> None:
    torch.manual_seed(0)
    equal_and_whole(pair, plans, Dropped().train(), "not in pieces of samples", "draws random numbers", input=images())
    assert not plans.only.in_pieces


@pytest.mark.parametrize("name", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_prompt_with_padding_hides_what_eager_hides(pair: Fleet, plans: Plans, name: str) -> None:
    model, ids = LONG[name](), prompt(TOKENS, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :100] = 0
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    tokens = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        expected = model.generate(**inputs, **tokens)
        assert torch.equal(remote_copy(pair, model).generate(**inputs, **tokens), expected)
    first = plans.all[0]
    assert not first.in_pieces
    assert first.because("whole after all tokens: "), first.plan.reasons


@pytest.mark.slow
def test_static_caches_of_a_long_prompt_are_written_as_in_eager(pair: Fleet, plans: Plans) -> None:
    model, ids = long_llama(), prompt(TOKENS)
    tokens = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}
    with torch.no_grad():
        expected = model.generate(input_ids=ids, **tokens)
        assert torch.equal(remote_copy(pair, model).generate(input_ids=ids, **tokens), expected)
    first = plans.all[0]
    assert not first.in_pieces
    assert first.because("whole after all tokens: ") or first.because("not in pieces of tokens: "), first.plan.reasons


@pytest.mark.parametrize("option", ["off", "blind"])
def test_nothing_is_cut_where_that_is_not_wanted(pair: Fleet, plans: Plans, option: str) -> None:
    net = made("vit", layers=1)
    options: dict[str, Any] = {"pipeline": "off"} if option == "off" else {"placement": "blind"}
    with torch.no_grad():
        same(pair.compile(net, **options)(images()).logits, net(images()).logits)
    assert plans.all == []


@pytest.mark.parametrize(("variable", "in_pieces"), [("off", None), ("auto", True)])
def test_the_environment_says_whether_to_cut(
    pair: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch, variable: str, in_pieces: bool | None
) -> None:
    monkeypatch.setenv("GENIE_PIPELINE", variable)
    net = made("vit", layers=1)
    with torch.no_grad():
        same(pair.compile(net)(images()).logits, net(images()).logits)
    assert [planned.in_pieces for planned in plans.all] == ([] if in_pieces is None else [in_pieces])


def test_training_is_never_cut(pair: Fleet, plans: Plans) -> None:
    net = made("vit", layers=1).train()
    remote = copy.deepcopy(net)
    for way, module in ((net, net), (pair.compile(remote), remote)):
        torch.manual_seed(5)
        way(images()).logits.sum().backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    for p, q in zip(net.parameters(), remote.parameters(), strict=True):
        same(q.grad, p.grad)
    assert plans.all == []


class Views(nn.Module):
    """Results in one memory: what is written into one of them is seen in the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made = self.layers(x)
        return made, made.view(-1), made[3], made[2:9].transpose(0, 1)


def test_results_that_share_memory_go_on_sharing_it(pair: Fleet, plans: Plans) -> None:
    torch.manual_seed(0)
    model = Views().eval()
    with torch.no_grad():
        results = remote_copy(pair, model)(torch.randn(16, 256))
        results[0].add_(1)
    assert "results share memory" in "\n".join(plans.only.plan.reasons)
    for one, other in zip(results[1:], (results[0].view(-1), results[0][3], results[0][2:9].T), strict=True):
        assert torch.equal(one, other)
