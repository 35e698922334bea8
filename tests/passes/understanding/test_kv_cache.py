"""KV caches are found by data flow, in the graphs that generation really compiles, and nowhere else."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dynamo_genie.passes.understanding.kv_cache import CacheKind, KVCache
from tests.passes.understood import understand

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=97, bos_token_id=0, eos_token_id=96)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
        )
    ),
}  # fmt: skip


def caches_while_generating(name: str, **options: object) -> list[tuple[KVCache, ...]]:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.forward, calls = understand(model.forward)
    model.generate(
        torch.randint(0, 96, (1, 5)), max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0, **options
    )
    return [call.analysis.caches for call in calls]


@pytest.mark.parametrize("name", MODELS)
def test_growing_caches_are_born_in_prefill_and_grown_in_decode(name: str) -> None:
    prefill, *decodes = caches_while_generating(name)
    assert [cache.kind for cache in prefill] == [CacheKind.BORN] * 4
    assert decodes
    for decode in decodes:
        assert [cache.kind for cache in decode] == [CacheKind.GROWN] * 4
        assert len({cache.before for cache in decode}) == 4
        assert {cache.sequence_dim for cache in decode} == {2}
        assert all(cache.update is cache.after for cache in decode)


@pytest.mark.parametrize("name", MODELS)
def test_static_caches_are_written_in_place_in_decode(name: str) -> None:
    prefill, *decodes = caches_while_generating(name, cache_implementation="static", disable_compile=True)
    assert [cache.kind for cache in prefill] == [CacheKind.BORN] * 4
    assert decodes
    for decode in decodes:
        assert [cache.kind for cache in decode] == [CacheKind.WRITTEN] * 4
        assert all(cache.before is not None and cache.before.op == "placeholder" for cache in decode)
        assert all("copied back" in cache.evidence[1] for cache in decode)
