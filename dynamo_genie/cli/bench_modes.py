"""`genie bench modes`: what understanding the graph is worth, mode against mode."""

from __future__ import annotations

import typer

from dynamo_genie.bench.study import experiments
from dynamo_genie.bench.study.plan import Protocol
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def modes(
    model: study.Model = "gpt2",
    network: study.Network = "10gbit,0.1ms",
    prompt: study.Prompt = 128,
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
    """Prefill and decode in each mode: latency, bytes by our count and the kernel's, utilisation, memory."""
    chosen = study.chosen_modes(modes)
    if quick:
        model, repeats = "tiny-gpt2", min(repeats, 2)
    protocol = Protocol(steps, repeats, warm_ups, seed, dtype=dtype, device=device, daemon=daemon)
    study.carry_out("modes", protocol, experiments.modes(network, model, prompt, chosen), json)


if __name__ == "__main__":
    app()
