"""From the answers of clients to rows of the study's document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from dynamo_genie.bench.study.gpu import Samples
from dynamo_genie.bench.study.orders import MeasuredPhase, Ready, RepeatDone
from dynamo_genie.bench.study.plan import Group, Member, Protocol
from dynamo_genie.bench.study.records import Row, Wire

FRAME_OVERHEAD = 66
"""Headers of a frame: Ethernet 14, IPv4 20, TCP 20 and its time stamps 12. A frame that the kernel has not cut yet
(segmentation offload) has them once, and is counted once."""


@dataclass
class Taken:
    """What was taken of one member so far: for each repeat the answers of its clients.

    Attributes:
        void: Why nothing of it counts.
        daemon_peak_bytes: Largest resident memory of its daemons' workers, together.
        gpu_samples: NVML's samples while it was measured.
    """

    member: Member
    ready: Ready
    repeats: list[tuple[RepeatDone, ...]] = field(default_factory=list)
    void: str = ""
    daemon_peak_bytes: int | None = None
    daemon_gpu_peak_bytes: int | None = None
    gpu_samples: Samples = field(default_factory=Samples)

    def compare(self, right: Sequence[int], answers: tuple[RepeatDone, ...]) -> None:
        """Keep a repeat, and note the first answer that is not the right one."""
        self.repeats.append(answers)
        for done in answers:
            if not self.void and (difference := first_difference(right, done.answer)):
                self.void = difference


def first_difference(right: Sequence[int], mine: Sequence[int]) -> str:
    """Say where answers differ from the right ones; empty where they do not."""
    for position, (theirs, own) in enumerate(zip_longest(right, mine)):
        if theirs != own:
            return f"answer {position} of {len(right)} is {own}, and {theirs} in mode local"
    return ""


def rows_of(taken: Taken, group: Group, protocol: Protocol, network: str) -> list[Row]:
    """Return a row for each phase of a member.

    Args:
        taken: What was taken.
        group: Its group.
        protocol: Of the run.
        network: The name of the network's `NetworkShape`.
    """
    if not taken.repeats:
        return []
    return [_row(taken, i, name, group, protocol, network) for i, name in enumerate(taken.ready.phases)]


def _row(taken: Taken, index: int, name: str, group: Group, protocol: Protocol, network: str) -> Row:
    phases = [[done.phases[index] for done in repeat] for repeat in taken.repeats]
    each = [phase for repeat in phases for phase in repeat]
    peaks = [done.peak_bytes for repeat in taken.repeats for done in repeat]
    several = group.sessions > 1
    return Row(
        mode=taken.member.mode,
        phase=name,
        model=group.model,
        dtype=protocol.dtype,
        device=taken.ready.device,
        network=network,
        prompt=group.prompt,
        seconds=tuple(tuple(s for phase in repeat for s in phase.seconds) for repeat in phases),
        steps=sum(len(phase.seconds) for phase in each),
        sent=_sum([phase.sent for phase in each]),
        received=_sum([phase.received for phase in each]),
        peer_bytes=_sum([phase.peer_bytes for phase in each]),
        wire=_wire(each) if each[0].wire and not several else None,
        busy_s=sum(phase.busy_s for phase in each),
        gpu_utilisation=taken.gpu_samples.mean_over([(phase.began, phase.began + phase.wall_s) for phase in each]),
        client_peak_bytes=max(peaks),
        daemon_peak_bytes=taken.daemon_peak_bytes,
        daemon_gpu_peak_bytes=taken.daemon_gpu_peak_bytes,
        placement=taken.member.placement,
        sessions=group.sessions,
        session_seconds=_by_session(phases) if several else (),
        batch=group.batch,
        operators=taken.ready.operators,
        void=taken.void,
    )


def _by_session(phases: Sequence[Sequence[MeasuredPhase]]) -> tuple[float, ...]:
    return tuple(sum(sum(phase.seconds) for phase in of_one) for of_one in zip(*phases, strict=True))


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _wire(phases: Sequence[MeasuredPhase]) -> Wire:
    sent, received, out, back = (sum(values) for values in zip(*(phase.wire for phase in phases), strict=True))
    framing = sum(phase.framing for phase in phases)
    kept_alive = sum(phase.keep_alive_bytes for phase in phases)
    return Wire(sent, received, out, back, (out + back) * FRAME_OVERHEAD + framing, kept_alive)
