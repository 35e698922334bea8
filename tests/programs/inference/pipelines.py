"""transformers' pipelines on tiny models and a tokenizer made here: text generation, classification, fill-mask."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    pipeline,
)

WORDS = "the a cat dog sat ran on under mat tree big small and then it was very happy".split()


def tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]", padding_side="left"
    )


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(31)
    words = tokenizer()
    sizes = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    llama = LlamaForCausalLM(
        LlamaConfig(
            **sizes, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=3, eos_token_id=4
        )
    )
    classifier = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=4, num_labels=3))
    masked = BertForMaskedLM(BertConfig(**sizes, num_attention_heads=4))
    for model in (llama, classifier, masked):
        model.eval()
        model.forward = torch.compile(model.forward, backend=backend)
    write = pipeline("text-generation", model=llama, tokenizer=words, device="cpu")
    texts = ["the cat sat on", "a small dog ran under the big tree and"]
    greedy = write(texts, max_new_tokens=6, do_sample=False)
    torch.manual_seed(7)
    sampled = write(texts, max_new_tokens=6, do_sample=True, top_p=0.9, batch_size=2)
    beams = write(texts[0], max_new_tokens=5, num_beams=3, do_sample=False)
    classify = pipeline("text-classification", model=classifier, tokenizer=words, device="cpu", top_k=None)
    fill = pipeline("fill-mask", model=masked, tokenizer=words, device="cpu")
    return {
        "greedy": greedy,
        "sampled": sampled,
        "beams": beams,
        "labels": classify(texts, padding=True, batch_size=2),
        "filled": fill("the [MASK] sat on the mat", top_k=3),
    }
