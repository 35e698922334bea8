"""`genie bench peers`: a decode step by way of other systems."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.bench.machine import use_one_thread
from dynamo_genie.cli import study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def peers(
    model: study.Model = "gpt2",
    prompt: study.Prompt = 128,
    steps: Annotated[int, typer.Option(help="Steps of each system in a repeat", min=1)] = 100,
    repeats: study.Repeats = 3,
    seed: study.Seed = 0,
    quick: study.Quick = False,
    json: study.Json = None,
) -> None:
    """Decode with the same model over genie, torch.distributed.rpc, a Ray actor and a bare echo, in turns."""
    use_one_thread()
    from dynamo_genie.bench.peers.comparison import compare
    from dynamo_genie.bench.peers.systems import Work

    if quick:
        model, steps, repeats = "tiny-gpt2", min(steps, 20), 1
    path = json if json is not None else Path("peers.json")
    work = Work(model, prompt, prompt + steps + 32, seed)
    study.end_on_signals()
    compare(work, steps, repeats, path, lambda text: print(f"- {text}", file=sys.stderr, flush=True))
    study.report(path)


if __name__ == "__main__":
    app()
