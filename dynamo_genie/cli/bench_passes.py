"""`genie bench passes`: what understanding a graph costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.bench.machine import use_one_thread

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def passes(
    layers: Annotated[list[int] | None, typer.Option(help="Layers of the model; repeat for more [12, 24, 48]")] = None,
    embd: Annotated[int, typer.Option(help="Its width; 768 is the published GPT-2")] = 768,
    heads: Annotated[int, typer.Option(help="Attention heads")] = 12,
    vocab: Annotated[int, typer.Option(help="Size of the vocabulary")] = 50_257,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file")] = None,
) -> None:
    """Time of all passes over GPT-2, prefill and decode, against that of Dynamo and AOTAutograd; nothing is run."""
    use_one_thread()
    from dynamo_genie.bench.model import Gpt2Shape
    from dynamo_genie.bench.passes import measure_passes
    from dynamo_genie.bench.report import make_console, show, write_json

    counts = sorted(layers or (12, 24, 48))
    results = measure_passes(Gpt2Shape(counts[0], embd, heads, vocab), counts)
    show(
        make_console(),
        f"Passes over GPT-2, width {embd}, one thread (one capture each, processor time)",
        results.figures,
    )
    if json is not None:
        write_json(json, "passes", results.details, results.figures)


if __name__ == "__main__":
    app()
