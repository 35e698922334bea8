"""Batches in pieces: replicas and stages of vision models, with the bits of eager where kernels give them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from tests.integration.compare import plain, same
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.fleets.planned import Plans, long_gpt2, nbytes_of, prompt

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

BATCH = 16


@pytest.fixture(scope="module")
def pair() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def four() -> Iterator[Fleet]:
    with fleet_of("0", "0", "0", "0") as fleet:
        yield fleet


def vit(layers: int = 4) -> nn.Module:
    shape = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, image_size=32, patch_size=8)
    return hf.ViTForImageClassification(hf.ViTConfig(**shape, num_hidden_layers=layers, num_labels=10))


def resnet() -> nn.Module:
    shape = dict(embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])
    return hf.ResNetForImageClassification(hf.ResNetConfig(**shape, num_labels=10))


def convnext() -> nn.Module:
    shape = dict(hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 2, 1])
    return hf.ConvNextForImageClassification(hf.ConvNextConfig(**shape, num_labels=10))


VISION = {"vit": vit, "resnet": resnet, "convnext": convnext}


def made(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return VISION[name](**changes).eval()


def images(batch: int = BATCH) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["vit", slow("resnet"), slow("convnext")])
def test_replicas_give_the_bits_of_eager(pair: Fleet, plans: Plans, name: str) -> None:
    model = made(name)
    with torch.no_grad():
        same(pair.compile(model)(images()).logits, model(images()).logits)
    planned = plans.only
    if planned.in_pieces:
        assert planned.because("replicas of the model", "2 pieces")
        assert set(planned.devices) == set(pair.endpoints)
    else:
        assert planned.because("other bits in pieces: "), planned.plan.reasons
        assert name != "vit", "whose kernels work on rows one by one"


@pytest.mark.parametrize("name", ["vit", slow("convnext")])
def test_a_model_that_fits_on_no_daemon_works_in_stages(pair: Fleet, plans: Plans, name: str) -> None:
    model = made(name)
    plans.memory_nbytes = nbytes_of(model) * 7 // 10
    with torch.no_grad():
        same(pair.compile(model)(images(32)).logits, model(images(32)).logits)
    planned = plans.only
    assert planned.in_pieces, planned.plan.reasons
    assert planned.because("stages of the model")
    assert len(planned.devices) >= 8
    assert len(planned.crossed) == 1, "all pieces go one way"


def test_kernels_that_round_otherwise_in_pieces_keep_the_whole_unless_that_is_wanted(pair: Fleet, plans: Plans) -> None:
    """Convolutions over many channels split their sums otherwise for 8 images than for 16."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 256, 4, 4), nn.ReLU(), nn.Conv2d(256, 64, 1), nn.ReLU(), nn.Conv2d(64, 8, 1))
    x = images()
    if torch.equal(model[:3](x), torch.cat([model[:3](x[:8]), model[:3](x[8:])])):
        pytest.skip("on this processor they do not")
    with torch.no_grad():
        expected = model(x)
        same(pair.compile(model)(x), expected)
        (whole,) = plans.take()
        close = plain(pair.compile(model, exact=False)(x))
    assert not whole.in_pieces
    assert whole.because("other bits in pieces: convolution.default"), whole.plan.reasons
    assert plans.only.in_pieces
    torch.testing.assert_close(close, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_four_daemons_share_out_a_prompt_and_a_batch(four: Fleet, plans: Plans) -> None:
    model, ids = long_gpt2(n_layer=8), prompt(2000)
    with torch.no_grad():
        same(four.compile(model)(input_ids=ids).logits, model(input_ids=ids).logits)
        (stages,) = plans.take()
        assert stages.in_pieces
        assert len(set(stages.devices)) == 4
        assert stages.because("stages of a prompt")
        net = made("vit", layers=4)
        same(four.compile(net)(images(32)).logits, net(images(32)).logits)
    assert plans.only.because("replicas of the model", "4 pieces")


@pytest.mark.slow
def test_two_replicas_in_stages_where_two_daemons_hold_a_model_together(four: Fleet, plans: Plans) -> None:
    net = made("vit", layers=6)
    plans.memory_nbytes = nbytes_of(net) * 7 // 10
    with torch.no_grad():
        same(four.compile(net)(images(32)).logits, net(images(32)).logits)
    planned = plans.only
    assert planned.in_pieces, planned.plan.reasons
    assert len(set(planned.devices)) == 4
    assert planned.because("two replicas in stages") or planned.because("stages of the model")
