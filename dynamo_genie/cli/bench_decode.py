"""`genie bench decode`: what the backend adds to a decode step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.bench.machine import use_one_thread

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def decode(
    layers: Annotated[int, typer.Option(help="Layers of the model")] = 12,
    embd: Annotated[int, typer.Option(help="Its width; 768 is the published GPT-2")] = 96,
    heads: Annotated[int, typer.Option(help="Attention heads")] = 12,
    vocab: Annotated[int, typer.Option(help="Size of the vocabulary")] = 50_257,
    prompt: Annotated[int, typer.Option(help="Tokens in the cache when decoding begins", min=1)] = 128,
    steps: Annotated[int, typer.Option(help="Steps of each model", min=1)] = 200,
    generates: Annotated[int, typer.Option(help="Calls of generate() of each model", min=1)] = 6,
    new_tokens: Annotated[int, typer.Option(help="Tokens a call", min=4)] = 32,
    cache_length: Annotated[
        list[int] | None, typer.Option(help="Count bytes here; repeat for more [128, 1000]")
    ] = None,
    daemon: Annotated[str, typer.Option(help="Use this daemon; GENIE_DAEMONS, else one is started")] = "",
    key_file: Annotated[str, typer.Option(help="The client's key file; GENIE_KEY_FILE by default")] = "",
    json: Annotated[Path | None, typer.Option(help="Write the results to this file")] = None,
) -> None:
    """Time of a decode step and of a token of generate(), in turns with aot_eager in this process; bytes a step."""
    use_one_thread()
    from dynamo_genie.bench.decode import DecodePlan, measure_decode
    from dynamo_genie.bench.model import Gpt2Shape
    from dynamo_genie.bench.report import make_console, show, write_json

    lengths = tuple(cache_length or (128, 1000))
    positions = max(1024, max(lengths) + 16, prompt + max(steps, new_tokens) + 16)
    shape = Gpt2Shape(layers, embd, heads, vocab, positions)
    plan = DecodePlan(shape, prompt, steps, generates, new_tokens, lengths)
    options = {name: value for name, value in (("daemons", daemon), ("key_file", key_file)) if value}
    results = measure_decode(plan, options)
    show(make_console(), f"Decoding, GPT-2 with {layers} layers, width {embd}, one thread (medians)", results.figures)
    if json is not None:
        write_json(json, "decode", results.details, results.figures)


if __name__ == "__main__":
    app()
