"""The numbers of a row: statistics of its samples and sums of its bytes, each None where it was not measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamo_genie.bench.study.records import Row, Study


@dataclass(frozen=True)
class Figures:
    """What tables and plots show of one row.

    Attributes:
        row: The row.
        mean_s: Mean of the repeats' means, of one step.
        std_s: Sample standard deviation of the repeats' means; None of one repeat.
        p50_s, p99_s: Of all steps, by linear interpolation.
        added_s: Mean less that of `local` in the same setting; None where that was not measured.
        tokens_s: Tokens a second and session: of the prompt in a prefill, one a step in decoding, of the batch in
            training; None elsewhere.
        step_bytes: Bytes to and from the client, by our counters, of one step.
        peer_step_bytes: Bytes from daemon to daemon of one step.
        kernel_step_bytes: Payload of one step by the interface's counters.
        kernel_deviation: How much the kernel's count exceeds ours, as a share of ours; None where either is missing.
        total_bytes: Bytes of the phase in one repeat.
        busy: Share of the time in which an executor computed.
    """

    row: Row
    mean_s: float
    std_s: float | None
    p50_s: float
    p99_s: float
    added_s: float | None
    tokens_s: float | None
    step_bytes: float
    peer_step_bytes: float
    kernel_step_bytes: float | None
    kernel_deviation: float | None
    total_bytes: float
    busy: float | None


def figures_of(study: Study) -> list[Figures]:
    """Return the figures of all rows that count for something."""
    return [_figures(row, _local(study, row)) for row in study.rows if not row.void and row.steps]


def _figures(row: Row, local: Row | None) -> Figures:
    means = [statistics.fmean(repeat) for repeat in row.seconds]
    samples = [second for repeat in row.seconds for second in repeat]
    mean = statistics.fmean(means)
    ours = sum(row.sent.values()) + sum(row.received.values())
    kernel = row.wire.payload_bytes if row.wire is not None else None
    return Figures(
        row=row,
        mean_s=mean,
        std_s=statistics.stdev(means) if len(means) > 1 else None,
        p50_s=quantile(samples, 0.5),
        p99_s=quantile(samples, 0.99),
        added_s=None if local is None else mean - statistics.fmean(map(statistics.fmean, local.seconds)),
        tokens_s=_tokens_s(row, mean),
        step_bytes=ours / row.steps,
        peer_step_bytes=sum(row.peer_bytes.values()) / row.steps,
        kernel_step_bytes=None if kernel is None else kernel / row.steps,
        kernel_deviation=(kernel - ours) / ours if kernel is not None and ours else None,
        total_bytes=ours / len(row.seconds),
        busy=row.busy_s / sum(samples) if row.busy_s is not None else None,
    )


def quantile(samples: Sequence[float], share: float) -> float:
    """Return a quantile by linear interpolation between the samples on both sides (type 7 of Hyndman and Fan, 1996)."""
    return float(np.quantile(samples, share))


def fairness(session_seconds: Sequence[float]) -> float:
    """Return Jain's index of the sessions' speeds: 1 when all are alike, 1/n when one has everything.

    R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination, DEC-TR-301, 1984.
    """
    speeds = [1 / seconds for seconds in session_seconds]
    return sum(speeds) ** 2 / (len(speeds) * sum(speed * speed for speed in speeds))


def _tokens_s(row: Row, mean_s: float) -> float | None:
    if row.phase == "decode":
        return row.batch / mean_s
    return row.prompt * row.batch / mean_s if row.phase in ("prefill", "train", "train-eager") else None


def _local(study: Study, row: Row) -> Row | None:
    found = (one for one in study.rows if one.mode == "local" and not one.void and one.setting == row.setting)
    return next(found, None)
