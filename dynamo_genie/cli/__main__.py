"""Entry point of the `genie` command: `main`. Imports torch for no command that does not need it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dynamo_genie.cli.daemon import daemon
from dynamo_genie.cli.keygen import keygen
from dynamo_genie.cli.status import status
from dynamo_genie.errors import GenieError

LAZY = MappingProxyType(
    {
        "models": "List the models that a daemon has in files.",
        "demo": "Generate text with a small model through a daemon.",
        "explain": "Run a script and print the plan of each graph it compiles.",
        "bench": "Measure this machine and this network.",
    }
)
"""Commands in modules of their names, which are imported when they are called."""

app = typer.Typer(
    name="genie",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"genie {version('dynamo_genie')}")
        except PackageNotFoundError:
            print("genie, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def genie(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and end", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Run PyTorch models on an accelerator elsewhere."""


for command in (daemon, status, keygen):
    app.command()(command)


class _PassedOn(TyperCommand):
    """A command that leaves all its arguments, `--` among them, to the one that it stands for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = args
        return args


def _lazily(module: str) -> Callable[[typer.Context], None]:
    """Return a command that imports `module` when it is called and hands its arguments to the `app` there."""

    def run(context: typer.Context) -> None:
        importlib.import_module(module).app(args=context.args, prog_name=context.command_path)

    return run


for name, summary in LAZY.items():
    app.command(name, help=summary, cls=_PassedOn)(_lazily(f"dynamo_genie.cli.{name}"))


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and exit code 1."""
    try:
        app()
    except GenieError as error:
        print(f"genie: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
