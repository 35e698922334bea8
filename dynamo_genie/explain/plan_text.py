"""`plan.txt`: a `GraphReport` as plain text."""

from __future__ import annotations

from collections.abc import Iterator

from dynamo_genie.explain.records import GraphReport, PlacementReport, Step
from dynamo_genie.explain.timeline import timeline_of
from dynamo_genie.quantities import error_text, flops_text, nbytes_text, seconds_text

DIRECTIONS = ("client -> daemons", "daemons -> client", "daemon -> daemon")
"""The parts of `Traffic`, for people."""


def plan_text(report: GraphReport) -> str:
    """Return all of a report, in an order that reads from what it is to what it cost."""
    return "\n".join([*_head(report), *_caches(report), *(line for p in report.placements for line in _placement(p))])


def traffic_rows(step: Step) -> Iterator[tuple[str, str, int, int]]:
    """Yield (direction, tensor class, predicted, measured) for all that moved or should have, then each sum."""
    for direction, predicted, measured in zip(DIRECTIONS, step.predicted.parts, step.measured.parts, strict=True):
        for name in sorted(predicted.keys() | measured.keys()):
            yield direction, name, predicted.get(name, 0), measured.get(name, 0)
        yield direction, "total", sum(predicted.values()), sum(measured.values())


def placement_lines(placement: PlacementReport) -> Iterator[str]:
    """Yield where a graph runs and what a call should move, a line each."""
    for part in placement.partitions:
        yield f"partition {part.index} runs {len(part.nodes)} nodes on {part.device} at stage {part.stage}"
    for device in placement.devices:
        yield (
            f"{device.device} holds {nbytes_text(device.weight_nbytes)} of weights and "
            f"{nbytes_text(device.cache_nbytes)} of caches, busy {seconds_text(device.busy_s)} a call"
        )
    for cut in placement.cuts:
        yield f"{cut.value} ({cut.role}, {nbytes_text(cut.nbytes)}) crosses from {cut.source} to {cut.target}"
    sent, received, between = placement.predicted.totals
    yield (
        f"a call should move {sent:,} B out, {received:,} B back, {between:,} B between daemons "
        f"and take {seconds_text(placement.predicted_step_s)}"
    )


def _head(report: GraphReport) -> Iterator[str]:
    yield f"graph {report.name} ({report.kind}, compile id {report.compile_id or '-'}): {report.n_nodes} nodes"
    yield f"phase {report.phase or '-'}"
    yield from (f"  because {line}" for line in report.phase_evidence)
    yield f"work of a call {flops_text(report.flops)}"
    for residency, nbytes in report.residency.items():
        yield f"inputs, {residency}: {nbytes_text(nbytes)}"


def _caches(report: GraphReport) -> Iterator[str]:
    yield f"KV caches {len(report.caches)}"
    for cache in report.caches:
        change = f"{cache.before} -> {cache.after}" if cache.before else cache.after
        yield f"  {cache.kind:8} {change}  {nbytes_text(cache.nbytes)}  {'; '.join(cache.evidence)}"


def _placement(placement: PlacementReport) -> Iterator[str]:
    yield f"placement {placement.policy}"
    yield from (f"  because {reason}" for reason in placement.reasons)
    yield from (f"  {line}" for line in placement_lines(placement))
    yield from _times(placement)
    measured = placement.measured
    if measured is None:
        yield "  not called yet"
        return
    for use in measured.engines:
        yield f"  partition {use.partition} is run by engine {use.engine}: {use.reason}"
    yield f"  last of {measured.calls} calls       class       predicted B   measured B"
    for direction, name, predicted, found in traffic_rows(measured.last):
        yield f"    {direction:20} {name:10} {predicted:12,} {found:12,}  {error_text(predicted, found)}"
    total, found_total = measured.predicted_nbytes, measured.measured_nbytes
    yield f"  all calls: predicted {total:,} B, measured {found_total:,} B ({error_text(total, found_total)})"
    yield (
        f"  time: predicted {seconds_text(placement.predicted_step_s)}; a call returned after "
        f"{seconds_text(measured.median_call_s)}, from call to call {seconds_text(measured.median_step_s)} (medians)"
    )


def _times(placement: PlacementReport) -> Iterator[str]:
    """Yield when each partition runs and each value crosses in one call, predicted and measured."""
    timeline = timeline_of(placement)
    if timeline is None:
        return
    yield "  one call over time"
    for lane in timeline.lanes:
        for kind, bars in lane.kinds:
            for bar in bars:
                times = f"{seconds_text(bar.start_s)} to {seconds_text(bar.end_s)}"
                yield f"    {' -> '.join(lane.ends)} {kind}: {bar.what}, {times}"
    yield from (f"    {remark}" for remark in timeline.remarks)
