"""`genie bench network`: every mode on networks of several rates and delays."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamo_genie.bench.study import experiments
from dynamo_genie.bench.study.plan import Protocol
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def network(
    rates: Annotated[str, typer.Option(help="Rates, separated by commas; none for no limit")] = "1gbit,10gbit,none",
    delays: Annotated[str, typer.Option(help="Delays one way, separated by commas; 0 for none")] = "0,0.1ms,1ms,5ms",
    model: study.Model = "gpt2",
    prompt: study.Prompt = 128,
    steps: study.Steps = 5,
    repeats: study.Repeats = 3,
    modes: study.Modes = study.EVERY_MODE,
    warm_ups: study.WarmUps = 2,
    seed: study.Seed = 0,
    device: study.Device = "cpu",
    dtype: study.Dtype = "float32",
    quick: study.Quick = False,
    json: study.Json = None,
) -> None:
    """Every mode on a grid of rates and delays; where a mode stops mattering."""
    grid = [[part.strip() for part in text.split(",") if part.strip()] for text in (rates, delays)]
    fast, near = [["" if word in ("none", "0") else word for word in words] for words in grid]
    if quick:
        model, repeats, fast, near = "tiny-gpt2", min(repeats, 2), fast[:2], near[:1]
    protocol = Protocol(steps, repeats, warm_ups, seed, dtype=dtype, device=device)
    groups = experiments.networks(fast, near, model, prompt, study.chosen_modes(modes))
    study.carry_out("network", protocol, groups, json)


if __name__ == "__main__":
    app()
