"""What the graphs of a program together say of how it might move less. Looks at their reports alone."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_genie.device_name import NAME
from dynamo_genie.explain.records import GraphReport
from dynamo_genie.quantities import nbytes_text


def training_advice(reports: Sequence[GraphReport]) -> str:
    """Say what a step of training moves because its parameters are here; empty where they are not, or nothing trains.

    A gradient is as large as its parameter, which goes out again once the optimizer has changed it.
    """
    nbytes = _gradient_nbytes(reports)
    if not nbytes:
        return ""
    text = nbytes_text(nbytes)
    return (
        f"The parameters are on the CPU, so a training step moves what it trains twice: {text} of gradients come back, "
        f"and {text} of parameters go out once the optimizer has changed them ({2 * nbytes:,} B together). With "
        f'model.to("{NAME}:0") they and the optimizer\'s state stay in the daemon, and neither is moved.'
    )


def _gradient_nbytes(reports: Sequence[GraphReport]) -> int:
    """Return the gradients that a step brings here; of graphs that were compiled for one frame the largest counts."""
    by_frame: dict[str, int] = {}
    for report in reports:
        if report.kind == "backward" and report.placements:
            frame = report.compile_id.partition("/")[0]
            found = report.placements[-1].predicted.received.get("gradient", 0)
            by_frame[frame] = max(found, by_frame.get(frame, 0))
    return sum(by_frame.values())
