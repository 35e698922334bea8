"""A decode step copies the new tokens and not the cache, and nobody can tell by the values."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, StaticCache

from dynamo_genie.passes.graphs.semantics import Facts, Role, annotate
from tests.integration.compare import plain, same
from tests.integration.conftest import Compile
from tests.integration.models import make_model, token_prompt
from tests.integration.semantics.test_generate import cases
from tests.remote_daemon.worker_in_process import WorkerInProcess, compile_in_process

aten = torch.ops.aten
LENGTHS = (128, 4096)
POSITIONS = 8192
STEPS = 3


class CopiedBytes(TorchDispatchMode):
    """Counts the bytes that operators which do nothing but copy write while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (
            aten.copy_.default,
            aten.cat.default,
            aten.clone.default,
            aten._to_copy.default,
            aten.index_copy.default,
        ):
            self.nbytes += result.nbytes
        elif func is aten.index_copy_.default:
            self.nbytes += args[3].nbytes
        return result


class CountedWorker(WorkerInProcess):
    """Counts what a call copies in the worker."""

    copied = 0

    def call(self, program: Any, *inputs: Any) -> list[int]:
        with CopiedBytes() as counted:
            handles = super().call(program, *inputs)
        self.copied = counted.nbytes
        return handles


def _model() -> nn.Module:
    return make_model("gpt2", n_layer=1, n_positions=POSITIONS)


@contextmanager
def _decoding(model: nn.Module, worker: WorkerInProcess) -> Iterator[Any]:
    compiled, _ = compile_in_process(worker, model.forward)
    with torch.no_grad():
        yield compiled
    torch._dynamo.reset()


def _step(call: Any, ids: Tensor, cache: Any) -> Tensor:
    return call(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_step_copies_as_much_at_128_tokens_as_at_4096(kind: str) -> None:
    model = _model()
    copied = {}
    for length in LENGTHS:
        worker = CountedWorker()
        cache = DynamicCache() if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=POSITIONS)
        expected = copy.deepcopy(cache)
        prompt = token_prompt(length=length).inputs["input_ids"]
        with _decoding(model, worker) as compiled:
            _step(compiled, prompt, cache)
            _step(model, prompt, expected)
            each = []
            for token in range(3, 3 + STEPS):
                before = worker.session.arena_counts
                ids = torch.tensor([[token]])
                logits = _step(compiled, ids, cache)
                assert torch.equal(logits, _step(model, ids, expected))
                each.append((worker.copied, worker.session.arena_counts.plus(before, -1)))
        copied[length] = each
    assert copied[LENGTHS[0]] == copied[LENGTHS[1]]
    nbytes, counts = copied[LENGTHS[0]][-1]
    assert nbytes < 10_000
    assert counts.appended_nbytes == (2 * 32 * 4 if kind == "dynamic" else 0)
    assert counts.moves == 0


# --- through the backend ---------------------------------------------------------------------------------


def _everything_is_a_cache(gm: GraphModule, *rest: Any) -> None:
    annotate({node: Facts(role=Role.KV_CACHE) for node in gm.graph.nodes if node.op != "output"})


def _nothing_is_known(gm: GraphModule, *rest: Any) -> None:
    pass


def _generate(model: nn.Module, **options: Any) -> Tensor:
    options = {"do_sample": False, "max_new_tokens": 14, **options}
    with torch.no_grad():
        return model.generate(**token_prompt(batch=2, length=7).inputs, **options)


def _assert_generates_alike(name: str, compiled: Compile, **options: Any) -> None:
    model = make_model(name)
    remote = copy.deepcopy(model)
    remote.forward = compiled(remote.forward)
    assert torch.equal(_generate(remote, **options), _generate(model, **options))


def _story(name: str, cache: str, compiled: Compile) -> list[Any]:
    """Decode past the sliding window; return the logits of each step and the caches."""
    model = make_model(name)
    call = compiled(model.forward)
    kept: Any = DynamicCache(config=model.config)
    if cache == "static":
        kept = StaticCache(config=model.config, max_cache_len=24)
    prompt, *steps = token_prompt(length=7).inputs["input_ids"], *(torch.tensor([[token]]) for token in range(3, 12))
    with torch.no_grad():
        logits = [plain(_step(call, ids, kept)) for ids in (prompt, *steps)]
    torch._dynamo.reset()
    return [logits, [(plain(layer.keys), plain(layer.values)) for layer in kept.layers]]


@pytest.mark.parametrize("name", [*cases(("gpt2", "llama", "mistral", "gemma3"))])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_no_bit_depends_on_facts(name: str, cache: str, compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _story(name, cache, compiled)
    for analyse in (_everything_is_a_cache, _nothing_is_known):
        monkeypatch.setattr("dynamo_genie.compiler.analyse", analyse)
        same(_story(name, cache, compiled), found)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 3}], ids=str)
def test_tokens_equal_eager(name: str, options: dict[str, Any], compiled: Compile) -> None:
    _assert_generates_alike(name, compiled, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_tokens_beyond_the_sliding_window_equal_eager(name: str, compiled: Compile) -> None:
    _assert_generates_alike(name, compiled, max_new_tokens=24)


def test_assisted_decoding_crops_the_caches_and_equals_eager(compiled: Compile) -> None:
    model, assistant = make_model("llama"), make_model("llama", seed=1, num_hidden_layers=1)
    remote = copy.deepcopy(model)
    remote.forward = compiled(remote.forward)
    prompt = token_prompt(length=5).inputs
    options = dict(do_sample=False, max_new_tokens=10, assistant_model=assistant)
    assert torch.equal(remote.generate(**prompt, **options), model.generate(**prompt, **options))


def test_branches_crops_writes_and_copies_of_one_cache_equal_eager(compiled: Compile) -> None:
    model = make_model("gpt2")

    def story(call: Any) -> Any:
        seen = []
        cache = DynamicCache(config=model.config)
        _step(call, token_prompt(length=7).inputs["input_ids"], cache)
        for token in (5, 6):
            _step(call, torch.tensor([[token]]), cache)
        kept = [(layer.keys, layer.values) for layer in cache.layers]
        branch = copy.deepcopy(cache)
        for left, right in ((5, 9), (6, 8)):
            seen += [_step(call, torch.tensor([[left]]), cache), _step(call, torch.tensor([[right]]), branch)]
        cache.crop(-1)
        seen.append(_step(call, torch.tensor([[4]]), cache))
        cache.layers[0].values[:, :, 2].zero_()
        kept[0][0].add_(1.0)
        seen += [_step(call, torch.tensor([[4]]), cache), _step(call, torch.tensor([[7]]), branch)]
        flat = [layer.keys.transpose(1, 2).reshape(-1) for layer in cache.layers]
        sums = [layer.values.sum() for layer in cache.layers]
        return seen, kept, flat, sums, [(layer.keys, layer.values) for layer in (*cache.layers, *branch.layers)]

    with torch.no_grad():
        same(story(compiled(model.forward)), story(model))
