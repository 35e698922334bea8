"""A document of the study as a page of Markdown with its plots, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from dynamo_genie.bench.network.spec import NetworkShape
from dynamo_genie.bench.study.records import Study
from dynamo_genie.bench.study.report.mode_tables import classes, latency, memory, worth
from dynamo_genie.bench.study.report.other_tables import colocation, crossover, grid, peers, sessions
from dynamo_genie.bench.study.report.pipeline_tables import decoded, foretold, pipelines, predicted
from dynamo_genie.bench.study.report.plots import plots_of, render
from dynamo_genie.bench.study.report.table import Table, seconds
from dynamo_genie.bench.study.report.training_tables import operators, training

FORMATS = ("png", "svg")

_TABLES: MappingProxyType[str, tuple[Callable[[Study], Table], ...]] = MappingProxyType(
    {
        "modes": (latency, worth, classes, memory),
        "kv-length": (latency, worth, classes),
        "colocation": (colocation, latency),
        "network": (grid, crossover, latency),
        "models": (latency, worth, classes, memory),
        "concurrency": (sessions, memory),
        "peers": (peers,),
        "training": (training, operators, classes),
        "pipelines": (pipelines, decoded, foretold),
        "pipelines-predicted": (predicted,),
    }
)


def tables_of(study: Study) -> list[Table]:
    """Return the tables that a document's experiment has."""
    return [make(study) for make in _TABLES.get(study.experiment, (latency,))]


def files_of(study: Study, name: str) -> dict[str, bytes]:
    """Return the report on a document by file name: a page of Markdown, and each plot as PNG and SVG.

    Args:
        study: The document.
        name: Of its file, without the ending; the names of all others begin with it.
    """
    plots = plots_of(study) if study.rows else []
    files = {f"{name}-{plot.name}.{ending}": render(plot, ending) for plot in plots for ending in FORMATS}
    shown = [f"![{plot.name}]({name}-{plot.name}.svg)\n" for plot in plots]
    page = "\n".join([heading(study, name), *(table.markdown() for table in tables_of(study)), *shown, gaps(study)])
    return {f"{name}.md": page.encode(), **files}


def heading(study: Study, name: str) -> str:
    """Return what a page begins with: how, when and where its figures were measured."""
    lines = [f"# {study.experiment}: {name}", ""]
    if not study.complete:
        lines += ["**INCOMPLETE: the run ended early; what follows was measured before.**", ""]
    machine = ", ".join(f"{key} {value}" for key, value in study.machine.items())
    lines += [
        f"- Command: `{study.command}`",
        f"- Started: {study.started}; seed {study.seed}; {study.repeats} repeats",
        f"- Machine: {machine}",
        *(f"- Network: {_network(shape)}" for shape in study.networks),
    ]
    devices = dict.fromkeys(" ".join(dict.fromkeys(row.device.split())) for row in study.rows)
    types = dict.fromkeys(row.dtype for row in study.rows)
    models = dict.fromkeys(row.model for row in study.rows)
    if devices:
        lines.append(f"- Computed by: {'; '.join(devices)}. Models: {', '.join(models)} in {', '.join(types)}")
    return "\n".join(lines) + "\n"


def gaps(study: Study) -> str:
    """Return what a page ends with: what was not measured."""
    if not study.gaps:
        return "Nothing that was asked for is missing.\n"
    return "Not measured:\n\n" + "\n".join(f"- {gap.what}: {gap.reason}" for gap in study.gaps) + "\n"


def _network(shape: NetworkShape) -> str:
    rate = "no limit" if shape.rate_bits_s is None else f"{shape.rate_bits_s / 1e9:g} Gbit/s"
    asked = f"asked {rate}, {(shape.delay_s or 0) * 1e3:g} ms one way, loss {shape.loss:.2%}"
    obtained = "not measured"
    if shape.obtained_rate_bits_s is not None:
        obtained = f"round trip {seconds(shape.obtained_round_trip_s)}, {shape.obtained_rate_bits_s / 1e9:.2f} Gbit/s"
    return f"{shape.name}: {asked}; obtained {obtained}" + (f"; {shape.note}" if shape.note else "")
