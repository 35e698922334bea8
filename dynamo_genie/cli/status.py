"""`genie status`: what a daemon's workers hold and for whom."""

from __future__ import annotations

import os
import time
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dynamo_genie.options import Options, resolve_options
from dynamo_genie.quantities import nbytes_text
from dynamo_genie.runtime.connect.admission import request_status
from dynamo_genie.runtime.connect.dealer import split_device
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.wire import messages as m

DEFAULT_ENDPOINT = "tcp://127.0.0.1:7777"
TIMEOUT_S = 5.0
PIPED_COLUMNS = 160


def status(
    endpoint: Annotated[str, typer.Option(help=f"The daemon; GENIE_DAEMONS or {DEFAULT_ENDPOINT} by default")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one report as JSON and end")] = False,
    key_file: Annotated[str, typer.Option(help="The client's key file; GENIE_KEY_FILE by default")] = "",
    interval_s: Annotated[float, typer.Option(help="Seconds between two looks", min=0.1)] = 1.0,
) -> None:
    """Show what a daemon's workers hold and for whom, until Ctrl-C; once with --json, or where no terminal shows it."""
    given = {name: value for name, value in (("daemons", endpoint), ("key_file", key_file)) if value}
    options = resolve_options(given, os.environ)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(as_plain(_ask(options))), indent=2).decode())
        return
    console = Console()
    if not console.is_terminal:
        Console(width=PIPED_COLUMNS).print(render(_ask(options)))
        return
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(render(_ask(options)), refresh=True)
                time.sleep(interval_s)
        except KeyboardInterrupt:
            return


def _ask(options: Options) -> m.DaemonStatus:
    endpoint = split_device(options.daemons[0])[0] if options.daemons else DEFAULT_ENDPOINT
    keys = load_client_keys(options.key_file) if options.key_file else None
    return request_status(endpoint, keys, min(options.connect_timeout_s, TIMEOUT_S))


def as_plain(record: object) -> object:
    """Turn wire records, which are arrays there, into objects with field names."""
    if isinstance(record, msgspec.Struct):
        return {name: as_plain(value) for name, value in msgspec.structs.asdict(record).items()}
    if isinstance(record, tuple):
        return [as_plain(item) for item in record]
    return record


def render(report: m.DaemonStatus) -> Group:
    """Lay a report out for a terminal."""
    state = "draining" if report.draining else "serving"
    head = Text(f"{report.endpoint}  pid {report.pid}  {state} for {_duration(report.uptime_s)}", style="bold")
    parts = [_workers(report)]
    if any(w.sessions for w in report.workers):
        parts.append(_sessions(report))
    if any(w.engines for w in report.workers):
        parts.append(_engines(report))
    if any(w.peer_sent or w.peer_received for w in report.workers):
        parts.append(_peers(report))
    return Group(head, *parts)


def plain_table(*columns: str) -> Table:
    """Return a table whose words are broken where the terminal is narrow, and never cut off."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _workers(report: m.DaemonStatus) -> Table:
    table = plain_table("tenant", "pid", "state", "device", "resident", "weights", "limit", "programs", "calls")
    for w in report.workers:
        sizes = (nbytes_text(n) for n in (w.resident_nbytes, w.weight_nbytes, w.memory_limit))
        table.add_row(w.tenant, str(w.pid), w.state, w.device, *sizes, str(w.programs), str(w.calls))
    return table


def _sessions(report: m.DaemonStatus) -> Table:
    table = plain_table("tenant", "session", "client", "age", "calls", "handles", "resident", "on host")
    for w in report.workers:
        for s in w.sessions:
            sizes = (nbytes_text(n) for n in (s.resident_nbytes, s.spilled_nbytes))
            client = Text("".join(c if c.isprintable() else "?" for c in s.client))  # the client chose it
            table.add_row(w.tenant, s.session, client, _duration(s.age_s), str(s.calls), str(s.handles), *sizes)
    return table


def _engines(report: m.DaemonStatus) -> Table:
    """What runs the programs, and why."""
    table = plain_table("tenant", "engine", "programs", "calls", "why")
    for w in report.workers:
        for e in w.engines:
            table.add_row(w.tenant, e.engine, str(e.programs), str(e.calls), Text(e.reason))
    return table


def _peers(report: m.DaemonStatus) -> Table:
    """What went to and came from other daemons, by class of tensor."""
    table = plain_table("tenant", "tensors", "sent to daemons", "got from daemons")
    for w in report.workers:
        sent, received = dict(w.peer_sent), dict(w.peer_received)
        for name in sorted({*sent, *received}):
            shown = Text("".join(c if c.isprintable() else "?" for c in name))  # the client chose it
            table.add_row(w.tenant, shown, nbytes_text(sent.get(name, 0)), nbytes_text(received.get(name, 0)))
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
