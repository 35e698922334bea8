"""`genie bench kv-length`: what the length of the KV cache costs in each mode."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamo_genie.bench.study import experiments
from dynamo_genie.bench.study.plan import Protocol
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def kv_length(
    prompts: Annotated[str, typer.Option(help="Lengths, separated by commas")] = "128,512,1024,2048,4096",
    model: study.Model = "gpt2",
    network: study.Network = "10gbit,0.1ms",
    steps: study.Steps = 5,
    repeats: study.Repeats = 3,
    modes: study.Modes = study.EVERY_MODE,
    warm_ups: study.WarmUps = 2,
    seed: study.Seed = 0,
    device: study.Device = "cpu",
    dtype: study.Dtype = "float32",
    daemon: study.Daemon = "",
    quick: study.Quick = False,
    json: study.Json = None,
) -> None:
    """Decode steps at several lengths of the cache, in each mode."""
    lengths = study.several("--prompts", prompts)
    if quick:
        model, repeats, lengths = "tiny-gpt2", min(repeats, 2), lengths[:2]
    protocol = Protocol(steps, repeats, warm_ups, seed, dtype=dtype, device=device, daemon=daemon)
    groups = experiments.kv_length(network, model, lengths, study.chosen_modes(modes))
    study.carry_out("kv-length", protocol, groups, json)


if __name__ == "__main__":
    app()
