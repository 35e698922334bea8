"""Stage e: modes, as `genie bench modes` measures them; the study's documents stand beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from dynamo_genie.bench.gpu_check.outcome import Outcome, say
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.report import Figure
from dynamo_genie.bench.study.memory import what_fits
from dynamo_genie.bench.study.plan import Group, Protocol, members_of
from dynamo_genie.bench.study.records import Row
from dynamo_genie.bench.study.runner import Runner

NETWORK = "loopback"
STEPS, REPEATS = 5, 2


def measure_modes(scale: Scale, outcome: Outcome) -> None:
    """Run the study of each model; one that does not fit on this machine is named."""
    for study in scale.studies:
        fitting, gaps = what_fits([study.model], len(scale.modes), study.dtype, on_gpu=not scale.rehearsal)
        for gap in gaps:
            outcome.add(note=f"not measured: {gap.what}: {gap.reason}")
        if not fitting:
            continue
        protocol = Protocol(STEPS, REPEATS, dtype=study.dtype, device=scale.device)
        options = f"--model {study.model} --network {NETWORK} --prompt {scale.prompt} --modes {','.join(scale.modes)}"
        command = (
            f"genie bench modes {options} --steps {STEPS} --repeats {REPEATS} "
            f"--dtype {study.dtype} --device {scale.device}"
        )
        path = outcome.folder / f"gpu-check-modes-{study.model}.json"
        runner = Runner("modes", protocol, path, say, command=command)
        found = runner.run([Group(NETWORK, study.model, scale.prompt, members_of(scale.modes))])
        outcome.add(mode_figures(study.model, found.rows))
        for gap in found.gaps:
            outcome.add(note=f"not measured: {gap.what}: {gap.reason}")
        outcome.add([_all_measured(study.model, found.rows, len(scale.modes))])


def mode_figures(model: str, rows: Sequence[Row]) -> list[Figure]:
    """Return each row's median step beside that of `local`, and fail a row whose answers differ."""
    local = {row.phase: _median_ms(row) for row in rows if row.mode == "local"}
    return [
        Figure(
            f"{model}, {row.phase}, {row.mode}, floor local" + (f": {row.void}" if row.void else ""),
            ms, "ms", local[row.phase], ms / local[row.phase], "tokens of local", not row.void,
        )
        for row in rows
        if (ms := _median_ms(row))
    ]  # fmt: skip


def _all_measured(model: str, rows: Sequence[Row], wanted: int) -> Figure:
    measured = len({row.mode for row in rows})
    return Figure(f"{model}: modes that were measured", measured, "", wanted, None, "all", measured == wanted)


def _median_ms(row: Row) -> float:
    return statistics.median(second for repeat in row.seconds for second in repeat) * 1e3
