"""Stage d: a model's weights on their way to the device, and a second session that finds them there."""

from __future__ import annotations

from dataclasses import replace

import torch

import dynamo_genie
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.device.arrival import SECOND_SESSION, measure_arrival
from dynamo_genie.bench.gpu_check.outcome import Outcome, say
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.model import parameter_nbytes
from dynamo_genie.bench.report import Figure, at_most
from dynamo_genie.bench.study.workloads import build_model
from dynamo_genie.tensors import TORCH_DTYPES

BIND_LIMIT_MS = 1000.0


def check_upload(scale: Scale, outcome: Outcome) -> None:
    """Send a model, bind it in a second session."""
    say(f"building {scale.uploaded}")
    longest = scale.prompt + scale.steps
    model = build_model(scale.uploaded, dtype=TORCH_DTYPES[scale.dtype], device="cpu", seed=0, longest=longest)
    outcome.add(details={"weight_nbytes": parameter_nbytes(model)})
    with running_daemon(device=scale.device) as daemon:
        try:
            say("uploading it")
            figures = measure_arrival(daemon.endpoint, model, torch.device(scale.device))
        finally:
            dynamo_genie.shutdown()
    outcome.add([_judged(figure) if scale.judged else figure for figure in figures])


def _judged(figure: Figure) -> Figure:
    """Give the figure of the second session its target."""
    if figure.name != SECOND_SESSION:
        return figure
    limited = at_most(figure.name, figure.value, figure.unit, BIND_LIMIT_MS)
    return replace(figure, judged=limited.judged, target=limited.target, passed=limited.passed)
