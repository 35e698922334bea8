"""`genie bench concurrency`: several clients of one daemon at the same time."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamo_genie.bench.study import experiments
from dynamo_genie.bench.study.plan import Protocol
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def concurrency(
    sessions: Annotated[str, typer.Option(help="Numbers of sessions, separated by commas")] = "1,2,4,8,16",
    model: study.Model = "gpt2-narrow",
    network: study.Network = "10gbit,0.1ms",
    prompt: study.Prompt = 128,
    steps: study.Steps = 20,
    repeats: study.Repeats = 3,
    modes: study.Modes = "handle,semantic",
    warm_ups: study.WarmUps = 2,
    seed: study.Seed = 0,
    device: study.Device = "cpu",
    dtype: study.Dtype = "float32",
    daemon: study.Daemon = "",
    quick: study.Quick = False,
    json: study.Json = None,
) -> None:
    """Throughput and fairness of 1 to 16 sessions that decode at the same time on one daemon."""
    counts = study.several("--sessions", sessions)
    if quick:
        model, repeats, counts = "tiny-gpt2", min(repeats, 2), counts[:2]
    protocol = Protocol(steps, repeats, warm_ups, seed, dtype=dtype, device=device, daemon=daemon)
    groups = experiments.concurrency(network, model, prompt, counts, study.chosen_modes(modes))
    study.carry_out("concurrency", protocol, groups, json)


if __name__ == "__main__":
    app()
