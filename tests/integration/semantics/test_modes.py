"""The five modes give the values of eager, and move what their definitions say."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.modes import MODES
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.integration.compare import same
from tests.integration.fleets.fleets import fleet_of
from tests.integration.models import make_model, token_prompt

REMOTE = [name for name, mode in MODES.items() if mode.remote]
NEW_TOKENS = 8


@pytest.fixture(autouse=True)
def fresh_sessions() -> Iterator[None]:
    """Sessions of this test alone, so that their counters and the daemon's weights are."""
    dynamo_genie.shutdown()
    yield
    dynamo_genie.shutdown()


def compiled(target: Any, mode: str, **options: Any) -> Any:
    return torch.compile(target, backend=genie, options={"mode": mode, **options})


def total() -> dict[str, Any]:
    return dynamo_genie.stats()["total"]  # type: ignore[no-any-return]


def crossed(mode: str, name: str, **options: Any) -> dict[str, dict[str, int]]:
    """Generate in a mode, check the tokens, and return the bytes of a second `generate()` by direction and class."""
    model = make_model(name)
    ids = token_prompt().inputs["input_ids"]
    expected = generate(copy.deepcopy(model), ids, **options)
    model.compile(backend=genie, options={"mode": mode})
    assert generate(model, ids, **options) == expected
    dynamo_genie.reset_stats()
    assert generate(model, ids, **options) == expected
    return {way: {k: n for k, n in total().get(way, {}).items() if n} for way in ("sent", "received")}


def generate(model: Any, ids: Tensor, **options: Any) -> list[int]:
    with torch.no_grad():
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **options)
    return tokens[0].tolist()  # type: ignore[no-any-return]


def cache_nbytes(model: Any, length: int) -> int:
    config = model.config
    return 2 * config.n_layer * config.n_embd * 4 * length


@pytest.mark.parametrize("mode", MODES)
def test_what_travels_is_what_the_mode_says(mode: str) -> None:
    found = crossed(mode, "gpt2")
    model = make_model("gpt2")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    prompt = token_prompt().inputs["input_ids"].shape[1]
    made = sum(cache_nbytes(model, prompt + step) for step in range(NEW_TOKENS))
    sent, received = found["sent"], found["received"]
    if mode == "local":
        assert not CONNECTIONS.all()
        assert found == {"sent": {}, "received": {}}
    if mode in ("naive", "remote_cache"):
        assert received["kv_cache"] == made
        assert sent["kv_cache"] == made - cache_nbytes(model, prompt + NEW_TOKENS - 1)  # nobody reads the last one
        assert received["output"] >= NEW_TOKENS * 4 * model.config.vocab_size  # the logits
    if mode == "naive":
        assert sent["weight"] >= NEW_TOKENS * weights
    if mode == "remote_cache":
        assert "weight" not in sent
    if mode in ("handle", "semantic"):
        assert "kv_cache" not in sent
        assert "kv_cache" not in received
        assert "weight" not in sent


def test_only_semantic_grows_dynamic_caches_in_place() -> None:
    grown = {}
    for mode in ("handle", "semantic"):
        crossed(mode, "gpt2")
        [connection] = CONNECTIONS.all()
        grown[mode] = dict(connection.session.inspect().counts).get("arena_appends", 0)
        dynamo_genie.shutdown()
        torch._dynamo.reset()
    assert grown["handle"] == 0
    assert grown["semantic"] > 0


def test_only_semantic_sends_no_weight_that_the_daemon_has() -> None:
    x = torch.ones(1, 300)
    uploaded = []
    for mode in ("semantic", "remote_cache", "handle", "semantic"):
        layer = nn.Linear(300, 300, bias=False)
        with torch.no_grad():
            layer.weight.fill_(0.5)
        dynamo_genie.reset_stats()
        same(compiled(layer, mode)(x), layer(x))
        uploaded.append(total()["sent"].get("weight", 0))
    nbytes = 300 * 300 * 4
    assert uploaded == [nbytes, nbytes, nbytes, 0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_generate_with_static_caches_gives_the_tokens_of_eager(mode: str, name: str) -> None:
    crossed(mode, name, cache_implementation="static")


@pytest.mark.parametrize("mode", MODES)
def test_training_gives_the_gradients_of_eager(mode: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))
    reference = copy.deepcopy(model)
    call = compiled(model, mode)
    for seed in range(2):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        for forward, module in ((call, model), (reference, reference)):
            forward(x).square().sum().backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter -= 0.1 * parameter.grad
    for (name, mine), (_, theirs) in zip(
        [*model.named_parameters(), *model.named_buffers()],
        [*reference.named_parameters(), *reference.named_buffers()],
        strict=True,
    ):
        assert torch.equal(mine, theirs), name


def strided(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    y.add_(1)
    scaled = x * 2
    return scaled.t(), scaled[1:, ::2], scaled.sum(0).expand(4, -1), x, y, scaled.nonzero(), torch.empty(0, 3) + 1


@pytest.mark.parametrize("mode", MODES)
def test_layouts_views_and_writes_are_those_of_eager(mode: str) -> None:
    x, y = torch.randn(5, 6), torch.zeros(3)
    reference_y = y.clone()
    expected = strided(x, reference_y)
    actual = compiled(strided, mode)(x, y)
    for mine, theirs in zip(actual, expected, strict=True):
        same(mine, theirs)
        assert mine.stride() == theirs.stride()
    assert torch.equal(y, reference_y)
    assert actual[3] is x
    assert any(isinstance(value, RemoteTensor) for value in actual) == (mode in ("handle", "semantic"))


@pytest.mark.parametrize("mode", MODES)
def test_random_numbers_are_those_of_eager(mode: str) -> None:
    def noisy(x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5) + torch.randn(x.shape)

    call, x = compiled(noisy, mode), torch.ones(7, 3)
    for _ in range(2):
        torch.manual_seed(3)
        actual = call(x)
        after = torch.get_rng_state()
        torch.manual_seed(3)
        same(actual, noisy(x))
        assert torch.equal(after, torch.get_rng_state())


def test_results_of_one_mode_go_into_another() -> None:
    x = torch.randn(4, 4)
    remote = compiled(lambda x: x @ x, "semantic")(x)
    for mode in REMOTE:
        same(compiled(lambda a: a + 1, mode)(remote), x @ x + 1)
    same(compiled(lambda a: a - 1, "local")(remote), x @ x - 1)


@pytest.mark.parametrize("mode", REMOTE)
def test_two_daemons_give_the_tokens_of_eager(mode: str) -> None:
    model = make_model("gpt2")
    ids = token_prompt().inputs["input_ids"]
    expected = generate(copy.deepcopy(model), ids)
    with fleet_of("0", "0") as fleet:
        model.compile(backend=genie, options=fleet.options(mode=mode))
        assert generate(model, ids) == expected
        dynamo_genie.reset_stats()
        assert generate(model, ids) == expected
        cached = total()["received"]["kv_cache"]
    prompt = ids.shape[1]
    made = sum(cache_nbytes(model, prompt + step) for step in range(NEW_TOKENS))
    assert cached == (0 if MODES[mode].results_stay else made)
