"""`genie bench gpu`: decode steps against the memory's floor, locally and through each engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def gpu(
    model: Annotated[str, typer.Option(help="gpt2, llama-1b, gptj-6b, tiny-gpt2")] = "gpt2",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float16",
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt", min=1)] = 128,
    steps: Annotated[int, typer.Option(help="Decode steps of each way", min=1)] = 50,
    engines: Annotated[str, typer.Option(help="Engines of the daemon, separated by commas")] = "eager,cudagraphs",
    device: Annotated[str, typer.Option(help="cuda; cpu shows how it works")] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="A small model and few steps")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file")] = None,
) -> None:
    """Decode with a Static cache: local eager, local reduce-overhead, and a daemon with each engine, in turns.

    Exits with 1 where tokens differ from local eager's and rounding does not explain it.
    """
    from dynamo_genie.bench.device_decode import Plan, engines_of, measure_device_decode
    from dynamo_genie.bench.machine import use_one_thread
    from dynamo_genie.bench.report import make_console, show, write_json

    if device == "cpu":
        use_one_thread()
    if quick:
        model, prompt, steps = "tiny-gpt2", min(prompt, 32), min(steps, 5)
    plan = Plan(model, dtype, prompt, steps, engines_of(engines), device)
    figures, details = measure_device_decode(plan, lambda text: print(f"- {text}", file=sys.stderr, flush=True))
    show(make_console(), f"{model} in {dtype} on {device}, batch 1, {prompt} tokens, Static cache (medians)", figures)
    for name, difference in details["differences"].items():
        if difference:
            print(f"{name}: other tokens than local eager from step {difference['step']:.0f} on, "
                  f"where its two best logits are {difference['logit_gap']:.2e} apart")  # fmt: skip
    if json is not None:
        write_json(json, "gpu", details, figures)
    if any(difference and not difference["explained"] for difference in details["differences"].values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
