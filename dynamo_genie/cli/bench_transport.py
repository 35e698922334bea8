"""`genie bench transport`: the wire alone, against bare pyzmq."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.bench.machine import use_one_thread

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def transport(
    round_trips: Annotated[int, typer.Option(help="Round trips each way", min=1)] = 2000,
    upload_mib: Annotated[list[int] | None, typer.Option(help="Size of an upload; repeat for more [64, 1024]")] = None,
    uploads: Annotated[int, typer.Option(help="Uploads of each size", min=1)] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file")] = None,
) -> None:
    """Round trips, upload bandwidth and extra memory of session and worker, each beside its floor."""
    use_one_thread()
    from dynamo_genie.bench.report import make_console, show, write_json
    from dynamo_genie.bench.transport import TransportPlan, measure_transport

    plan = TransportPlan(round_trips, min(20, round_trips), tuple(upload_mib or (64, 1024)), uploads)
    results = measure_transport(plan)
    show(make_console(), "Transport, two processes on this machine (medians)", results.figures)
    if json is not None:
        write_json(json, "transport", results.details, results.figures)


if __name__ == "__main__":
    app()
