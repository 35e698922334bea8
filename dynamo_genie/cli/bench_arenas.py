"""`genie bench arenas`: appending to caches in place, against copying them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.bench.machine import use_one_thread

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def arenas(
    layers: Annotated[int, typer.Option(help="Layers, each with keys and values", min=1)] = 12,
    heads: Annotated[int, typer.Option(help="Heads of a cache", min=1)] = 12,
    head_dim: Annotated[int, typer.Option(help="Elements of a head", min=1)] = 64,
    length: Annotated[list[int] | None, typer.Option(help="Tokens in a cache; repeat [128, 1024, 4096]")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each kind at each length", min=1)] = 50,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file")] = None,
) -> None:
    """Time to append one token to all caches of a model; the floor is torch.cat, which copies them."""
    use_one_thread()
    from dynamo_genie.bench.arenas import ArenaBenchPlan, measure_arenas
    from dynamo_genie.bench.report import make_console, show, write_json

    plan = ArenaBenchPlan(layers, heads, head_dim, tuple(length or (128, 1024, 4096)), steps)
    results = measure_arenas(plan)
    show(
        make_console(), f"Caches of {layers} layers, {heads} x {head_dim} floats, one thread (medians)", results.figures
    )
    if json is not None:
        write_json(json, "arenas", results.details, results.figures)


if __name__ == "__main__":
    app()
