"""One model on two daemons: equal to eager, caches stay with their layers, and nothing passes through the client."""

from __future__ import annotations

import copy
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.errors import QuotaExceeded, StaleHandleError
from tests.integration.compare import plain, same
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.models import audio_prompt, image_prompt, make_model, token_prompt

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

WIDTH, LAYERS, VOCAB = 128, 4, 512
HIDDEN_NBYTES = WIDTH * 4
NEW_TOKENS = 8


def narrow_gpt2(**changes: Any) -> nn.Module:
    """3.7 MB of weights: four layers of 0.8 MB, embeddings of 0.4 MB used at both ends."""
    torch.manual_seed(0)
    shape = dict(n_embd=WIDTH, n_layer=LAYERS, n_head=4, vocab_size=VOCAB, n_positions=256, initializer_range=0.2)
    config = hf.GPT2Config(**{**shape, "bos_token_id": 1, "eos_token_id": 2, **changes})
    model = hf.GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.disable_compile = True
    return model


def remote_copy(fleet: Fleet, model: nn.Module, **options: Any) -> nn.Module:
    remote = copy.deepcopy(model)
    remote.forward = fleet.compile(remote.forward, **options)
    return remote


def generate(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        return model.generate(**inputs, **{"max_new_tokens": NEW_TOKENS, "do_sample": False, **options})


@pytest.fixture(scope="module")
def small() -> Iterator[Fleet]:
    """Two daemons of which neither can hold the narrow GPT-2."""
    with fleet_of("3MB", "3MB") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def medium() -> Iterator[Fleet]:
    """Two daemons of which neither can hold the narrow GPT-2, what training saves of it, and its gradients."""
    with fleet_of("9MB", "9MB") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def large() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


# --- equal to eager -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}])
def test_a_model_that_fits_on_no_daemon_generates_the_same_tokens_on_two(small: Fleet, cache: dict[str, Any]) -> None:
    model = narrow_gpt2()
    remote = remote_copy(small, model)
    inputs = token_prompt(batch=2, length=7).inputs
    expected = generate(model, inputs, **cache)
    assert expected.unique().numel() > 3, "a model that repeats itself would hide a wrong cache"
    assert torch.equal(generate(remote, inputs, **cache), expected)
    assert all(daemon.status().weight_nbytes > 0 for daemon in small.daemons)


def test_beams_are_reordered_where_their_caches_live(large: Fleet) -> None:
    model = make_model("gpt2")
    remote = remote_copy(large, model, placement="blind", placement_seed=1)
    inputs = token_prompt(batch=2).inputs
    assert torch.equal(generate(remote, inputs, num_beams=3), generate(model, inputs, num_beams=3))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", slow("whisper")])
def test_blind_placement_gives_the_same_tokens(large: Fleet, name: str, seed: int) -> None:
    model = make_model(name)
    remote = remote_copy(large, model, placement="blind", placement_seed=seed)
    inputs = (audio_prompt() if name == "whisper" else token_prompt()).inputs
    assert torch.equal(generate(remote, inputs), generate(model, inputs))


def test_static_caches_are_written_where_they_live_when_placement_is_blind(large: Fleet) -> None:
    model = make_model("llama")
    remote = remote_copy(large, model, placement="blind", placement_seed=2)
    inputs = token_prompt().inputs
    options = {"cache_implementation": "static"}
    assert torch.equal(generate(remote, inputs, **options), generate(model, inputs, **options))


@pytest.mark.parametrize("policy", ["semantic", "blind"])
@pytest.mark.parametrize("name", ["bert", "clip", *map(slow, ("vit", "convnext"))])
def test_forward_equals_eager(large: Fleet, name: str, policy: str) -> None:
    model = make_model(name)
    inputs = dict(token_prompt().inputs) if name in ("bert", "clip") else {}
    if name != "bert":
        inputs.update(image_prompt(size=32 if name == "convnext" else 16).inputs)
    with torch.no_grad():
        same(dict(fleet_call(large, model, policy)(**inputs)), dict(model(**inputs)))


def fleet_call(fleet: Fleet, model: nn.Module, policy: str) -> Any:
    return fleet.compile(model, placement=policy)


@pytest.mark.parametrize("policy", ["semantic", "blind"])
def test_a_training_step_with_dropout_gives_equal_gradients(medium: Fleet, policy: str) -> None:
    model = narrow_gpt2(resid_pdrop=0.1, attn_pdrop=0.0, embd_pdrop=0.1).train()
    remote = copy.deepcopy(model)
    ids = token_prompt(batch=2, length=6).inputs["input_ids"]
    call = medium.compile(remote, placement=policy)
    for way, net in ((model, model), (call, remote)):
        torch.manual_seed(5)
        way(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        assert all(p.grad is not None for p in net.parameters())
    for (name, p), q in zip(model.named_parameters(), remote.parameters(), strict=True):
        assert torch.equal(plain(q.grad), p.grad), name


def test_buffers_that_the_graph_writes_are_brought_back(large: Fleet) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
    remote = copy.deepcopy(model)
    call = large.compile(remote, placement="blind", placement_seed=1)
    for step in range(3):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            same(call(x), model(x))
    same(dict(remote.state_dict()), dict(model.state_dict()))


def test_an_input_written_in_place_ends_as_in_eager(large: Fleet) -> None:
    def step(x: Tensor, y: Tensor) -> Tensor:
        before = x.sin()
        x.add_(y)
        return before @ x

    call = large.compile(step, placement="blind", placement_seed=3)
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    remote = large.compile(lambda a: a * 1)(x)
    expected = step(x.clone(), y), x + y
    local = x.clone()
    same(call(local, y), expected[0])
    same(local, expected[1])
    same(call(remote, y), expected[0])
    same(remote, expected[1])


def test_shapes_that_depend_on_data_come_from_where_the_result_lives(large: Fleet) -> None:
    call = large.compile(
        lambda x: x.nonzero() + 1,
        placement="blind",
        placement_seed=1,
    )
    x = torch.tensor([0.0, 1.0, 0.0, 2.0])
    same(call(x), x.nonzero() + 1)


# --- operators between calls ----------------------------------------------------------------------------------


def test_operators_bring_arguments_of_two_daemons_together(large: Fleet) -> None:
    x = torch.randn(64, 64)
    one, two = on_each(large, x)
    before = large.traffic()
    same(one + two, x * 2 + x * 3)
    same(torch.cat([one, two, x]), torch.cat([x * 2, x * 3, x]))
    moved = large.traffic() - before
    assert sum(moved.peer_sent.values()) == 2 * x.nbytes
    one.add_(two)
    same(one, x * 2 + x * 3)
    one[:2].mul_(two[:2])
    assert torch.equal(plain(one)[:2], (x * 2 + x * 3)[:2] * (x * 3)[:2])


def on_each(fleet: Fleet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two remote tensors, x * 2 on the first daemon and x * 3 on the second."""
    found = []
    for endpoint, factor in zip(fleet.endpoints, (2, 3), strict=True):
        call = torch.compile(lambda a, factor=factor: a * factor, backend=genie, options={"daemons": [endpoint]})
        found.append(call(x))
    return found[0], found[1]


def test_a_compiled_call_takes_arguments_from_several_daemons(large: Fleet) -> None:
    x = torch.randn(16, 16)
    one, two = on_each(large, x)
    same(large.compile(lambda a, b: (a @ b).relu())(one, two), ((x * 2) @ (x * 3)).relu())


def test_a_call_that_would_write_into_a_copy_is_refused_and_nothing_is_written(large: Fleet) -> None:
    x = torch.randn(4, 4)
    _, two = on_each(large, x)
    write = torch.compile(lambda a: a.add_(1).sum(), backend=genie, options={"daemons": large.endpoints[:1]})
    with pytest.raises(StaleHandleError, match="lives on another daemon"):
        write(two)
    same(two, x * 3)


# --- what crosses ---------------------------------------------------------------------------------------------


def steps(fleet: Fleet, remote: nn.Module, batch: int, length: int, **options: Any) -> Counter[str]:
    """Return the bytes between daemons of two decode steps, after everything is compiled and placed."""
    inputs = token_prompt(batch=batch, length=length).inputs
    generate(remote, inputs, max_new_tokens=6, **options)
    found = []
    for n_tokens in (6, 8):
        before = fleet.traffic()
        generate(remote, inputs, max_new_tokens=n_tokens, **options)
        found.append(fleet.traffic() - before)
    assert found[0].peer_sent == found[0].peer_received
    two = found[1].peer_sent.copy()
    two.subtract(found[0].peer_sent)
    return two


def test_semantic_placement_moves_a_hidden_state_and_no_cache(small: Fleet) -> None:
    remote = remote_copy(small, narrow_gpt2())
    two = steps(small, remote, batch=1, length=40)
    assert two["kv_cache"] == 0
    assert two["weight"] == 0
    assert two["activation"] in (2 * HIDDEN_NBYTES, 4 * HIDDEN_NBYTES), "one hidden state a step and cut"


def test_blind_placement_moves_the_cache(large: Fleet) -> None:
    remote = remote_copy(large, narrow_gpt2(), placement="blind", placement_seed=0)
    two = steps(large, remote, batch=1, length=40)
    assert two["kv_cache"] + two["activation"] > 2 * 40 * HIDDEN_NBYTES


def test_what_crosses_a_cut_does_not_pass_through_the_client(small: Fleet) -> None:
    model = narrow_gpt2()
    call = small.compile(lambda ids: model(input_ids=ids, use_cache=False).logits[:, -1, 0].sum())
    sums = {}
    for batch in (2, 8):
        ids = torch.zeros(batch, 16, dtype=torch.int64)
        with torch.no_grad():
            call(ids).item()
            before = small.traffic()
            call(ids).item()
        sums[batch] = small.traffic() - before
    assert sums[8].peer_sent["activation"] == 4 * sums[2].peer_sent["activation"] > 0
    for direction in ("sent", "received"):
        of_two, of_eight = (sum(getattr(sums[b], direction).values()) for b in (2, 8))
        assert abs(of_eight - of_two) < 64, "only the packed ids grow"


def test_weights_go_only_where_they_are_used(small: Fleet) -> None:
    model = narrow_gpt2(vocab_size=VOCAB + 1)
    total = sum(p.nbytes for p in model.parameters())
    embedding = model.transformer.wte.weight.nbytes
    before = small.traffic()
    generate(remote_copy(small, model), token_prompt().inputs)
    sent = (small.traffic() - before).sent["weight"]
    assert total <= sent <= total + embedding, "nothing but the tied embedding may be needed twice"


def test_a_model_that_fits_nowhere_says_what_was_needed_and_what_is_there(small: Fleet) -> None:
    model = narrow_gpt2(n_layer=16)
    with pytest.raises(QuotaExceeded, match="memory-limit") as caught, torch.no_grad():
        small.compile(model)(token_prompt().inputs["input_ids"], use_cache=False)
    for endpoint in small.endpoints:
        assert endpoint in str(caught.value)


@pytest.mark.sweep
@pytest.mark.slow
def test_gpt2_of_one_and_a_half_times_what_a_daemon_may_hold_moves_only_hidden_states() -> None:
    """GPT-2 124M: 498 MB of weights, of which a daemon may hold 332 MB."""
    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(hf.GPT2Config()).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    with fleet_of("332MB", "332MB") as fleet:
        remote = remote_copy(fleet, model)
        two = steps(fleet, remote, batch=1, length=64)
        assert torch.equal(
            generate(remote, token_prompt(length=64).inputs), generate(model, token_prompt(length=64).inputs)
        )
        resident = [daemon.status().weight_nbytes for daemon in fleet.daemons]
    assert two["kv_cache"] == two["weight"] == 0
    assert two["activation"] in (2 * 768 * 4, 4 * 768 * 4), "one hidden state a step and cut"
    assert max(resident) < 332e6 < sum(resident), "weights with equal contents, such as biases of zeros, are held once"
    with fleet_of("0", "0") as fleet:
        blind = steps(fleet, remote_copy(fleet, model, placement="blind"), batch=1, length=64)
    assert blind["kv_cache"] > 2 * 64 * 2 * 768 * 4, "at least one layer's cache in each of two steps"


# --- at the same time -----------------------------------------------------------------------------------------


def test_the_towers_of_clip_work_at_the_same_time(large: Fleet) -> None:
    torch.manual_seed(0)
    tower = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)
    text = dict(tower, vocab_size=512, max_position_embeddings=64, eos_token_id=2, bos_token_id=1, pad_token_id=0)
    vision = dict(tower, image_size=64, patch_size=8)
    model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).eval()
    inputs = {
        "input_ids": torch.randint(3, 512, (8, 64)),
        "attention_mask": torch.ones(8, 64, dtype=torch.int64),
        "pixel_values": torch.randn(8, 3, 64, 64),
    }
    call = large.compile(model)
    with torch.no_grad():
        same(call(**inputs).logits_per_image, model(**inputs).logits_per_image)
        large.inspections()  # takes the spans of the first call
        call(**inputs).logits_per_image.tolist()
    first, second = (state.spans for state in large.inspections())
    assert first
    assert second
    assert any(a[1] < b[2] and b[1] < a[2] for a in first for b in second), (
        "no call of one began before one of the other ended"
    )


def test_two_threads_with_different_placements_do_not_meet(large: Fleet) -> None:
    models = [make_model("gpt2", seed=seed) for seed in range(4)]
    inputs = token_prompt().inputs
    expected = [generate(model, inputs) for model in models]
    torch._dynamo.reset()
    remotes = [remote_copy(large, model, placement="blind", placement_seed=seed) for seed, model in enumerate(models)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda remote: generate_again(remote, inputs), remotes))
    for tokens, of_eager in zip(found, expected, strict=True):
        assert all(torch.equal(t, of_eager) for t in tokens)


def generate_again(remote: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [remote.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False) for _ in range(3)]


# --- when a daemon is lost ------------------------------------------------------------------------------------


def test_when_a_worker_dies_its_tensors_are_what_they_were() -> None:
    """Where placement put what, the speeds of this machine decide."""
    model = narrow_gpt2()
    ids = token_prompt().inputs["input_ids"]
    with fleet_of("3MB", "3MB") as fleet, torch.no_grad():
        call = fleet.compile(model)
        local = model(input_ids=ids)
        expected = local.logits
        kept = call(input_ids=ids)
        assert all(state.spans for state in fleet.inspections()), "both daemons take part"
        for daemon in fleet.daemons:
            os.kill(daemon.worker(), signal.SIGKILL)
            for mine, layer in zip(local.past_key_values.layers, kept.past_key_values.layers, strict=True):
                same(dynamo_genie.to_local(layer.keys), mine.keys)
            same(call(input_ids=ids).logits, expected)
