"""Models of several towers on two daemons: the time of a call, against the sum and the longest of what daemons compute.

    python -m dynamo_genie.bench.pipelines.towers [clip-base] [llava-200m]

Two daemons with one thread each, on this machine; ways are called in turns. A call is over when its logits are here.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from dynamo_genie.bench.alternate import seconds_of
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.machine import use_one_thread

CALLS = 3
WARM_UPS = 2


def _clip() -> tuple[Any, dict[str, Any], str]:
    import torch
    from transformers import CLIPConfig, CLIPModel

    texts, images = torch.randint(1, 49_000, (16, 77)), torch.randn(16, 3, 224, 224)
    return CLIPModel(CLIPConfig()), dict(input_ids=texts, pixel_values=images), "logits_per_image"


def _llava() -> tuple[Any, dict[str, Any], str]:
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    sees = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    reads = LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=sees, text_config=reads, image_token_index=5))
    images, places = 8, 196
    prompt = torch.randint(10, 31_000, (1, 64 + images * places))
    prompt[:, 32 : 32 + images * places] = 5
    return model, dict(input_ids=prompt, pixel_values=torch.randn(images, 3, 224, 224), logits_to_keep=1), "logits"


MODELS: Mapping[str, Callable[[], tuple[Any, dict[str, Any], str]]] = MappingProxyType(
    {"clip-base": _clip, "llava-200m": _llava}
)
"""A model, the arguments of a call, and what is read of its result."""


def main(names: Sequence[str]) -> None:
    """Measure models and print a line for each way."""
    use_one_thread()
    print(f"{'model':12} {'daemons':8} {'call s':>8} {'sum s':>8} {'longest s':>9}  equal")
    with ExitStack() as running:
        daemons = [running.enter_context(running_daemon()).endpoint for _ in range(2)]
        for name in names or MODELS:
            measure(name, daemons)


def measure(name: str, daemons: Sequence[str]) -> None:
    """Measure a model on one daemon, on two without pieces, and on two with them."""
    import torch

    import dynamo_genie

    torch.compiler.config.recompile_limit = 64  # all ways are compiled of one model
    torch.manual_seed(0)
    model, call, result = MODELS[name]()
    model = model.eval()
    ways: dict[str, dict[str, Any]] = {
        "one": {"daemons": [daemons[0]]},
        "two": {"daemons": list(daemons), "pipeline": "off"},
        "two, cut": {"daemons": list(daemons)},
    }
    compiled: dict[str, Callable[..., Any]] = {
        way: torch.compile(model, backend="genie", options=options) for way, options in ways.items()
    }
    taken: dict[str, list[tuple[float, list[float]]]] = {way: [] for way in ways}
    answers: dict[str, list[Any]] = {}

    def ask(way: str) -> None:
        with torch.no_grad():
            answers[way] = compiled[way](**call)[result].tolist()

    for turn in range(WARM_UPS + CALLS):
        for way in list(ways)[turn % 3 :] + list(ways)[: turn % 3]:
            _busy()
            seconds = seconds_of(lambda way=way: ask(way))  # type: ignore[misc]  # called at once
            dynamo_genie.synchronize()
            if turn >= WARM_UPS:
                taken[way].append((seconds, _busy()))
    for way, found in taken.items():
        call_s = statistics.median(seconds for seconds, _ in found)
        total_s, longest_s = (statistics.median(of(busy) for _, busy in found) for of in (sum, max))
        equal = answers[way] == answers["one"]
        print(f"{name:12} {way:8} {call_s:8.2f} {total_s:8.2f} {longest_s:9.2f}  {equal}", flush=True)
    dynamo_genie.shutdown()


def _busy() -> list[float]:
    """Return how long each session computed since it was last asked, in seconds."""
    from dynamo_genie.connections.connections import CONNECTIONS

    spans = [connection.session.inspect().spans for connection in CONNECTIONS.all()]
    return [sum(ended - began for _, began, ended in of_one) * 1e-9 for of_one in spans] or [0.0]


if __name__ == "__main__":
    main(sys.argv[1:])
