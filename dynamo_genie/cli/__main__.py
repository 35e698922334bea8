"""Entry point of the `genie` command: `main`. Imports torch for no command that does not need it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import MappingProxyType

import typer

from dynamo_genie.cli.daemon import daemon
from dynamo_genie.cli.keygen import keygen
from dynamo_genie.cli.status import status
from dynamo_genie.errors import GenieError

PASS_ON = MappingProxyType({"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})

LAZY = MappingProxyType(
    {
        "demo": "Generate text with a small model through a daemon.",
        "explain": "Run a script and print the plan of each graph it compiles.",
        "bench": "Measure this machine and this network.",
    }
)
"""Commands in modules of their names, which are imported when they are called."""

app = typer.Typer(
    name="genie",
    help="Run PyTorch models on an accelerator elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (daemon, status, keygen):
    app.command()(command)


def _lazily(module: str) -> Callable[[typer.Context], None]:
    """Return a command that imports `module` when it is called and hands its arguments to the `app` there."""

    def run(context: typer.Context) -> None:
        importlib.import_module(module).app(args=context.args, prog_name=context.command_path)

    return run


for name, summary in LAZY.items():
    app.command(name, help=summary, context_settings=dict(PASS_ON))(_lazily(f"dynamo_genie.cli.{name}"))


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and exit code 1."""
    try:
        app()
    except GenieError as error:
        print(f"genie: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
