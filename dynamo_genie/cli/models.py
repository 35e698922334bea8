"""`genie models`: the models that a daemon has in files, which `dynamo_genie.load_weights` loads."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynamo_genie.cli.status import DEFAULT_ENDPOINT, PIPED_COLUMNS, as_plain, plain_table
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.options import resolve_options
from dynamo_genie.quantities import nbytes_text
from dynamo_genie.runtime.wire import messages as m

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def models(
    endpoint: Annotated[str, typer.Option(help=f"The daemon; GENIE_DAEMONS or {DEFAULT_ENDPOINT} by default")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON")] = False,
    key_file: Annotated[str, typer.Option(help="The client's key file; GENIE_KEY_FILE by default")] = "",
) -> None:
    """List the models that a daemon has in files: name, files, tensors, bytes, dtypes."""
    given = {name: value for name, value in (("daemons", endpoint), ("key_file", key_file)) if value}
    options = resolve_options(given, os.environ)
    if not options.daemons:
        options = resolve_options({**given, "daemons": DEFAULT_ENDPOINT}, os.environ)
    try:
        session = CONNECTIONS.get(options).session
        with session.lock:
            found = session.weight_channel.models()
    finally:
        CONNECTIONS.shutdown()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode([as_plain(model) for model in found]), indent=2).decode())
        return
    console = Console()
    (console if console.is_terminal else Console(width=PIPED_COLUMNS)).print(render(found))


def render(found: list[m.ModelSummary]) -> Table | Text:
    """Lay the list out for a terminal."""
    if not found:
        return Text("no models; a daemon offers those below its --model-dir")
    table = plain_table("model", "files", "tensors", "bytes", "dtypes")
    for model in found:
        if model.problem:
            table.add_row(Text(model.name), "", "", "", Text(f"cannot be loaded: {model.problem}"))
            continue
        dtypes = ", ".join(f"{name} ({count})" for name, count in model.dtypes)
        table.add_row(Text(model.name), str(model.files), str(model.tensors), nbytes_text(model.nbytes), Text(dtypes))
    return table
