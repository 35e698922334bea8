"""`genie demo`: a GPT-2 with random weights decodes here and in a daemon; tokens, times and bytes side by side.

Then a small one is trained on both, on the device `remote_accelerator` there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from dynamo_genie.cli.daemon import parse_devices
from dynamo_genie.errors import OptionError
from dynamo_genie.quantities import nbytes_text

if TYPE_CHECKING:
    from dynamo_genie.bench.generation import Comparison
    from dynamo_genie.bench.training import TrainingComparison

TRAINED = MappingProxyType({"layers": 2, "embd": 128, "heads": 4, "vocab": 1000})
"""The model that is trained: small, so that the demo stays short."""
BATCH = (4, 64)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    layers: Annotated[int, typer.Option(help="Layers of the model")] = 12,
    embd: Annotated[int, typer.Option(help="Its width")] = 768,
    heads: Annotated[int, typer.Option(help="Attention heads")] = 12,
    vocab: Annotated[int, typer.Option(help="Size of the vocabulary")] = 50_257,
    prompt: Annotated[int, typer.Option(help="Tokens in the prompt", min=1)] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate", min=4)] = 32,
    cache: Annotated[str, typer.Option(help="dynamic or static")] = "dynamic",
    train_steps: Annotated[
        int, typer.Option(help="Steps of training a small model on the device; 0 for none", min=0)
    ] = 5,
    daemon: Annotated[str, typer.Option(help="Use this daemon; GENIE_DAEMONS, else one is started")] = "",
    key_file: Annotated[str, typer.Option(help="The client's key file; GENIE_KEY_FILE by default")] = "",
    device: Annotated[str, typer.Option(help="Device of a daemon that is started: auto, cpu or cuda:N")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Write the results to this file")] = None,
) -> None:
    """Generate text locally and through a daemon, then train on it; exit code 1 when tokens or losses differ."""
    _check(cache, device, daemon)
    from dynamo_genie.bench.report import make_console, write_json

    console = make_console()
    shape = {"layers": layers, "embd": embd, "heads": heads, "vocab": vocab}
    daemon = daemon or ("" if device != "auto" else os.environ.get("GENIE_DAEMONS", ""))
    options = {name: value for name, value in (("daemons", daemon), ("key_file", key_file)) if value}
    with _daemon(device, options):
        found, facts = _run(shape, prompt, new_tokens, cache, options, console)
        _show(console, found, facts)
        trained = _train(train_steps, options, console) if train_steps else None
    equal = trained is None or trained.losses_equal
    if trained is not None:
        _show_training(console, trained, facts)
    if json is not None:
        training = {"training": {**asdict(trained), "losses_equal": equal}} if trained is not None else {}
        write_json(json, "demo", {**facts, **asdict(found), "ratio": found.ratio, **training})
    raise typer.Exit(0 if found.tokens_equal and (equal or not _computes_as_here(facts)) else 1)


def _check(cache: str, device: str, daemon: str) -> None:
    if cache not in ("dynamic", "static"):
        raise OptionError(f"--cache {cache!r}: write dynamic or static")
    parse_devices(device)
    if daemon and device != "auto":
        raise OptionError(f"--device {device!r} is for a daemon that is started here, not for {daemon}")


@contextlib.contextmanager
def _daemon(device: str, options: dict[str, str]) -> Any:
    """Start a daemon where the embedded one would not do; close every session in the end."""
    import dynamo_genie

    with contextlib.ExitStack() as stack:
        if device != "auto":
            from dynamo_genie.bench.daemon import running_daemon

            options["daemons"] = stack.enter_context(running_daemon(device=device)).endpoint
        stack.callback(dynamo_genie.shutdown)
        yield


def _run(
    sizes: dict[str, int], prompt: int, new_tokens: int, cache: str, options: dict[str, str], console: Console
) -> tuple[Comparison, dict[str, Any]]:
    report: Callable[[str], None] = lambda what: console.print(f"[cyan]-[/] {what}")
    import dynamo_genie
    from dynamo_genie.bench.generation import compare_with_local
    from dynamo_genie.bench.model import Gpt2Shape, build_gpt2, parameter_nbytes, random_prompt

    shape = Gpt2Shape(**sizes, positions=max(1024, prompt + new_tokens))
    report("building a GPT-2 with random weights")
    model = build_gpt2(shape)
    nbytes = parameter_nbytes(model)
    report("connecting to the daemon" if options.get("daemons") else "connecting (an embedded daemon starts)")
    daemon = dynamo_genie.connect(**options)
    ids = random_prompt(shape, prompt)
    found = compare_with_local(model, ids, new_tokens, cache, options, report)
    facts = {**sizes, "prompt": prompt, "new_tokens": new_tokens, "cache": cache, "parameter_bytes": nbytes}
    return found, {**facts, "daemon": daemon}


def _train(steps: int, options: dict[str, str], console: Console) -> TrainingComparison:
    """Train a small model here and on the device."""
    from dynamo_genie.bench.model import Gpt2Shape, build_gpt2, random_prompt
    from dynamo_genie.bench.training import DEVICE, compare_training

    shape = Gpt2Shape(**TRAINED)
    console.print(f"[cyan]-[/] training a GPT-2 of {shape.layers} layers, width {shape.embd}, here and on {DEVICE}")
    ids = random_prompt(shape, BATCH[0] * BATCH[1]).view(BATCH)
    return compare_training(build_gpt2(shape), ids, steps, options, lambda what: console.print(f"[cyan]-[/] {what}"))


def _computes_as_here(facts: dict[str, Any]) -> bool:
    """Whether the daemon computes on a CPU: elsewhere sums are rounded otherwise, and so losses differ a little."""
    return str(facts["daemon"]["device"]).startswith("cpu")


def _show_training(console: Console, found: TrainingComparison, facts: dict[str, Any]) -> None:
    steps = len(found.local_losses)
    if found.losses_equal:
        console.print(f"[bold green]losses equal[/] to those of the CPU, bit for bit, {steps} of them")
    else:
        style = "red" if _computes_as_here(facts) else "yellow"
        console.print(f"[bold {style}]losses differ[/] from those of the CPU")
        console.print(f"  local  {found.local_losses}\n  device {found.remote_losses}")
    sent, received = (sum(found.last_step_bytes[way].values()) for way in ("sent", "received"))
    twice = nbytes_text(2 * found.model_nbytes)
    console.print(
        f"a step of training moved {sent:,} bytes out and {received:,} back; with its parameters here it would move "
        f"the model twice, {twice}\n",
        highlight=False,
    )


def _show(console: Console, found: Comparison, facts: dict[str, Any]) -> None:
    console.print()
    if found.tokens_equal:
        console.print(f"[bold green]tokens equal[/] to local eager PyTorch, {facts['new_tokens']} of them, three times")
    else:
        console.print("[bold red]tokens DIFFER[/] from local eager PyTorch")
        console.print(f"  local  {found.local_tokens}\n  remote {found.remote_tokens}")
    where = facts["daemon"]
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_row("daemon", f"{where['endpoint']}  ({where['device']}, torch {where['torch_version']})")
    table.add_row("parameters", nbytes_text(facts["parameter_bytes"]))
    table.add_row("weights sent, equal ones once", nbytes_text(found.weight_bytes_sent))
    table.add_row("weights sent after the first generate", nbytes_text(found.weight_bytes_sent_again))
    table.add_row("first generate (compiles, uploads)", f"{found.first_call_s:.1f} s")
    table.add_row("time a token, local eager", f"{found.local_step_ms:.2f} ms (median)")
    table.add_row("time a token, through the daemon", f"{found.remote_step_ms:.2f} ms (median)")
    table.add_row("ratio", f"{found.ratio:.2f}")
    table.add_row("calls and reads a token", f"{found.calls_per_token:.2f} and {found.fetches_per_token:.2f}")
    console.print(table)
    console.print(_bytes_table(found.bytes_per_step))


def _bytes_table(by_direction: dict[str, dict[str, int]]) -> Table:
    table = Table("bytes a token (median)", box=box.SIMPLE_HEAD, pad_edge=False)
    names = [name for name in by_direction["sent"] if any(found[name] for found in by_direction.values())]
    names = list(dict.fromkeys(["weight", "kv_cache", *names]))  # these two must be 0: say so
    for name in (*names, "total"):
        table.add_column(name, justify="right")
    for direction, found in by_direction.items():
        table.add_row(direction, *(f"{found[name]:,}" for name in names), f"{sum(found.values()):,}")
    return table


if __name__ == "__main__":
    app()
