"""A decoder that stays where it is: each call sends a token and gets the next one. What every peer serves."""

from __future__ import annotations

from dynamo_genie.bench.machine import use_one_thread


class ServedDecoder:
    """A model with its cache in the middle of decoding, compiled in mode `local`: the same work as everywhere."""

    def __init__(self, model: str, prompt: int, longest: int, seed: int) -> None:
        """Build the model; what it computes has one thread, as all sides have."""
        use_one_thread()
        import torch

        from dynamo_genie.backend import genie
        from dynamo_genie.bench.study.workloads import Decoding, build_model

        torch.set_num_threads(1)
        built = build_model(model, dtype=torch.float32, device="cpu", seed=seed, longest=longest)
        built.compile(backend=genie, options={"mode": "local"})
        self._work = Decoding(built, built.config, prompt, seed, "cpu")

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
