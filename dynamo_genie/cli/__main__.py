"""Entry point of the `genie` command: `main`. Imports torch for no command that does not need it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import typer

from dynamo_genie.cli.daemon import daemon
from dynamo_genie.cli.keygen import keygen
from dynamo_genie.cli.status import status
from dynamo_genie.errors import GenieError

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="genie",
    help="Run PyTorch models on an accelerator elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure this machine and this network.", no_args_is_help=True)
app.add_typer(bench, name="bench")

for command in (daemon, status, keygen):
    app.command()(command)


def _lazily(module: str) -> Callable[[typer.Context], None]:
    """Return a command that imports `module` when it is called and hands its arguments to the `app` there."""

    def run(context: typer.Context) -> None:
        importlib.import_module(module).app(args=context.args, prog_name=context.command_path)

    return run


def _add_lazy(parent: typer.Typer, name: str, module: str, summary: str) -> None:
    parent.command(name, help=summary, context_settings=PASS_ON)(_lazily(module))


_add_lazy(app, "demo", "dynamo_genie.cli.demo", "Generate text with a small model through a daemon.")
_add_lazy(app, "explain", "dynamo_genie.cli.explain", "Run a script and print the plan of each graph it compiles.")
_add_lazy(bench, "transport", "dynamo_genie.cli.bench_transport", "Round trips and bulk bandwidth to a daemon.")
_add_lazy(bench, "decode", "dynamo_genie.cli.bench_decode", "Time of a decode step, local and remote.")
_add_lazy(bench, "gpu", "dynamo_genie.cli.bench_gpu", "Decode steps against the floor of the memory, by engine.")
_add_lazy(bench, "arenas", "dynamo_genie.cli.bench_arenas", "Appending to caches in place, against copying them.")
_add_lazy(bench, "modes", "dynamo_genie.cli.bench_modes", "What understanding is worth, mode against mode.")
_add_lazy(bench, "kv-length", "dynamo_genie.cli.bench_kv_length", "What the length of the KV cache costs in each mode.")
_add_lazy(bench, "colocation", "dynamo_genie.cli.bench_colocation", "Two daemons: caches by chance, or with attention.")
_add_lazy(bench, "network", "dynamo_genie.cli.bench_network", "Every mode on a grid of rates and delays.")
_add_lazy(bench, "models", "dynamo_genie.cli.bench_models", "Every mode on several architectures.")
_add_lazy(bench, "concurrency", "dynamo_genie.cli.bench_concurrency", "Several clients of one daemon at the same time.")
_add_lazy(bench, "peers", "dynamo_genie.cli.bench_peers", "A decode step by way of other systems.")
_add_lazy(bench, "report", "dynamo_genie.cli.bench_report", "Tables and plots from the study's documents.")
_add_lazy(bench, "passes", "dynamo_genie.cli.bench_passes", "Time of the passes, against that of the capture.")


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and exit code 1."""
    try:
        app()
    except GenieError as error:
        print(f"genie: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
