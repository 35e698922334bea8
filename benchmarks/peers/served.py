"""A decoder that stays where it is: each call sends a token and gets the next one. What every peer serves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dynamo_genie.bench.machine import use_one_thread

LOCAL: Mapping[str, object] = MappingProxyType({"mode": "local"})


class ServedDecoder:
    """A model with its cache in the middle of decoding: the same work as everywhere."""

    def __init__(
        self, model: str, prompt: int, longest: int, seed: int, *, options: Mapping[str, object] = LOCAL
    ) -> None:
        """Build the model and compile it, in mode `local` by default; what it computes has one thread, as all sides."""
        use_one_thread()
        import torch

        from dynamo_genie.backend import genie
        from dynamo_genie.bench.study.workloads import build_model, decoding_of

        torch.set_num_threads(1)
        built = build_model(model, dtype=torch.float32, device="cpu", seed=seed, longest=longest)
        built.compile(backend=genie, options=dict(options))
        self._work = decoding_of(built, built.config, prompt, seed, "cpu")

    def begin(self) -> int:
        """Forget the cache, feed the prompt and return the first token."""
        self._work.begin()
        self._work.step("prefill")
        return self._work.answer[-1]

    def step(self, token: int) -> int:
        """Feed a token and return the next one."""
        self._work.feed(token)
        self._work.step("decode")
        return self._work.answer[-1]
