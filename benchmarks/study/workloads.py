"""What the study runs: models by name, with seeded random weights, and the work that is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamo_genie.bench.decoding import Decoding
from dynamo_genie.bench.study.seeded import build_seeded, empty_model
from dynamo_genie.errors import GenieError


class Work(Protocol):
    """One repeat of some work. A phase is a list of steps; a step ends when the program has read its answer.

    Attributes:
        answer: What the program read in this repeat.
        operators: How many operators eager code runs in a step; 0 where nobody counts them.
    """

    answer: list[int]
    operators: int

    def begin(self) -> None:
        """Forget the last repeat."""

    def step(self, phase: str) -> None:
        """Do one step of a phase."""


@dataclass(frozen=True)
class Workload:
    """A model and its work.

    Attributes:
        config: Makes the configuration, given the longest sequence that will be seen.
        architecture: Name of the class in transformers.
        phases: Of a repeat; all but `prefill` have as many steps as the run asks for.
        work: Makes the work from the compiled model, its configuration and inputs.
    """

    config: Callable[[int], Any]
    architecture: str
    phases: tuple[str, ...]
    work: Callable[[Any, Any, int, int, str], Work]


class Encoding:
    """Forward passes of an encoder over one input; the program reads one output of each, as the bits of its numbers."""

    def __init__(self, model: Any, inputs: dict[str, Tensor], output: str) -> None:
        self._model = model
        self._inputs = inputs
        self._output = output
        self.answer: list[int] = []
        self.operators = 0

    def begin(self) -> None:
        """Forget what was read."""
        self.answer = []

    def step(self, phase: str) -> None:
        """Run the model and read its output."""
        with torch.no_grad():
            output = getattr(self._model(**self._inputs), self._output)
        self.answer += torch.tensor(output.float().flatten().tolist()).view(torch.int32).tolist()


def decoding_of(model: Any, config: Any, prompt: int, seed: int, device: str) -> Decoding:
    """Return decoding from a random prompt of so many tokens."""
    generator = torch.Generator().manual_seed(seed + 1)
    return Decoding(model, torch.randint(1, config.vocab_size, (1, prompt), generator=generator).to(device))


def _text(model: Any, config: Any, prompt: int, seed: int, device: str) -> Work:
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(1, config.vocab_size, (1, prompt), generator=generator).to(device)
    return Encoding(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "pooler_output")


def _image(model: Any, config: Any, prompt: int, seed: int, device: str) -> Work:
    return Encoding(model, {"pixel_values": _pixels(config.image_size, seed, model, device)}, "pooler_output")


def _image_and_text(model: Any, config: Any, prompt: int, seed: int, device: str) -> Work:
    length = min(prompt, config.text_config.max_position_embeddings)
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(1, config.text_config.vocab_size - 1, (4, length), generator=generator).to(device)
    pixels = _pixels(config.vision_config.image_size, seed, model, device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return Encoding(model, inputs, "logits_per_image")


def _pixels(size: int, seed: int, model: Any, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 2)
    dtype = next(model.parameters()).dtype
    return torch.randn(1, 3, size, size, generator=generator).to(device, dtype)


def _gpt2(longest: int) -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_positions=max(1024, longest))


def _tiny_gpt2(longest: int) -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_positions=max(256, longest), n_layer=2, n_embd=64, n_head=4, vocab_size=500)


def _narrow_gpt2(longest: int) -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_positions=max(1024, longest), n_embd=96)


def _gptj(longest: int) -> Any:
    from transformers import GPTJConfig

    return GPTJConfig(n_positions=max(2048, longest))


def _tiny_gptj(longest: int) -> Any:
    from transformers import GPTJConfig

    return GPTJConfig(n_positions=max(256, longest), n_layer=1, n_embd=64, n_head=4, rotary_dim=8, vocab_size=500)


def _llama_1b(longest: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True, max_position_embeddings=max(8192, longest),
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )  # fmt: skip


def _tiny_llama(longest: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=max(256, longest),
    )  # fmt: skip


def _bert(longest: int) -> Any:
    from transformers import BertConfig

    return BertConfig(max_position_embeddings=max(512, longest))


def _vit(longest: int) -> Any:
    from transformers import ViTConfig

    return ViTConfig()


def _clip(longest: int) -> Any:
    from transformers import CLIPConfig

    return CLIPConfig()


_DECODES = ("prefill", "decode")

WORKLOADS = MappingProxyType(
    {
        "gpt2": Workload(_gpt2, "GPT2LMHeadModel", _DECODES, decoding_of),
        "gptj-6b": Workload(_gptj, "GPTJForCausalLM", _DECODES, decoding_of),
        "llama-1b": Workload(_llama_1b, "LlamaForCausalLM", _DECODES, decoding_of),
        "bert-base": Workload(_bert, "BertModel", ("encode",), _text),
        "vit-base": Workload(_vit, "ViTModel", ("vision",), _image),
        "clip": Workload(_clip, "CLIPModel", ("encode",), _image_and_text),
        "gpt2-narrow": Workload(_narrow_gpt2, "GPT2LMHeadModel", _DECODES, decoding_of),
        "tiny-gpt2": Workload(_tiny_gpt2, "GPT2LMHeadModel", _DECODES, decoding_of),
        "tiny-gptj": Workload(_tiny_gptj, "GPTJForCausalLM", _DECODES, decoding_of),
        "tiny-llama": Workload(_tiny_llama, "LlamaForCausalLM", _DECODES, decoding_of),
    }
)
"""By the name that `--model` takes."""


def workload_of(name: str) -> Workload:
    """Return a workload.

    Raises:
        GenieError: There is none of this name.
    """
    if name not in WORKLOADS:
        raise GenieError(f"--model {name!r}: the study knows {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def build_model(name: str, *, dtype: torch.dtype, device: str, seed: int, longest: int) -> Any:
    """Return a model with seeded weights, equal in every process of one machine.

    Args:
        name: In `WORKLOADS`.
        dtype: Of the weights.
        device: Where it shall live.
        seed: Of the weights.
        longest: The longest sequence that it will see.
    """
    workload = workload_of(name)
    return build_seeded(workload.architecture, workload.config(longest), dtype=dtype, device=device, seed=seed)


def build_empty(name: str, *, dtype: torch.dtype, longest: int) -> Any:
    """Return a model on the CPU whose weights nobody wrote yet, for whoever makes them elsewhere."""
    workload = workload_of(name)
    return empty_model(workload.architecture, workload.config(longest), dtype)
