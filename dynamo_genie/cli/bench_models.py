"""`genie bench models`: every mode on several architectures."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamo_genie.bench.study import experiments
from dynamo_genie.bench.study.plan import Protocol
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def models(
    names: Annotated[str, typer.Option("--models", help="Models, separated by commas")] = ",".join(experiments.MODELS),
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
    """Decoders, encoders and towers, in each mode; what does not fit is named as not measured."""
    chosen, wanted = study.chosen_modes(modes), [name.strip() for name in names.split(",") if name.strip()]
    if quick:
        wanted, repeats = ["tiny-gpt2", "bert-base"], min(repeats, 2)
    protocol = Protocol(steps, repeats, warm_ups, seed, dtype=dtype, device=device, daemon=daemon)
    fitting, gaps = study.what_fits(wanted, len(chosen), dtype, device)
    groups = experiments.models(network, fitting, prompt, chosen)
    study.carry_out("models", protocol, groups, json, gaps)


if __name__ == "__main__":
    app()
