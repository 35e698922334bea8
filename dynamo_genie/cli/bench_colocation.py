"""`genie bench colocation`: two daemons, caches placed by chance against caches placed with their attention."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamo_genie.bench.study import experiments
from dynamo_genie.bench.study.plan import Protocol
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def colocation(
    prompts: Annotated[str, typer.Option(help="Lengths of the cache, separated by commas")] = "128,1024,2048",
    networks: Annotated[str, typer.Option(help="Networks, separated by semicolons")] = "1gbit,0.1ms;10gbit,0.1ms",
    model: study.Model = "gpt2",
    steps: study.Steps = 5,
    repeats: study.Repeats = 3,
    warm_ups: study.WarmUps = 2,
    seed: study.Seed = 0,
    device: study.Device = "cpu",
    dtype: study.Dtype = "float32",
    quick: study.Quick = False,
    json: study.Json = None,
) -> None:
    """Two daemons on two hosts: blind against co-located placement, at several lengths of the cache."""
    lengths = study.several("--prompts", prompts)
    names = [name.strip() for name in networks.split(";") if name.strip()]
    if quick:
        model, repeats, lengths, names = "tiny-gpt2", min(repeats, 2), lengths[:1], names[:1]
    protocol = Protocol(steps, repeats, warm_ups, seed, dtype=dtype, device=device)
    study.carry_out("colocation", protocol, experiments.colocation(names, model, lengths), json)


if __name__ == "__main__":
    app()
