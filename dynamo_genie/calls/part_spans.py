"""When the parts of one call ran: the spans that workers note, attributed to parts. Pure.

A worker runs what a session posts in that order and notes number of the program, begin and end of each call. So the
parts of a call are found among its session's spans in the order in which they were posted, by their programs; what lies
between them, an eager operator say, is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.parts import Part, Placement
from dynamo_genie.observe import PartSpan
from dynamo_genie.runtime.session.peer_mesh import is_local
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire.messages import Inspection

Span = tuple[int, int, int]
"""Number of a program, begin and end of one call of it, in ns since 1970 by the worker's clock."""


def part_spans(
    placement: Placement, states: Mapping[Session, Inspection], began_ns: int, ended_ns: int
) -> tuple[PartSpan, ...]:
    """Return when each part of a bound graph ran, in the order of the parts; those that ran nowhere are left out.

    Args:
        placement: The graph's parts.
        states: What the workers noted since the call began.
        began_ns: When the client began the call, in ns since 1970.
        ended_ns: When it had heard of its end.
    """
    found: dict[int, PartSpan] = {}
    for session, state in states.items():
        own = [(number, bound) for number, bound in numbered_parts(placement) if bound.session is session]
        spans = attribute([bound.program for _, bound in own], state.spans)
        endpoint = next((c.endpoint for c in placement.connections if c.session is session), "")
        same_clock = is_local(endpoint) and _all_within(spans, began_ns, ended_ns)
        for (number, _), span in zip(own, spans, strict=True):
            if span is not None:
                begin_s, end_s = ((at - began_ns) * 1e-9 for at in span[1:])
                found[number] = PartSpan(number, endpoint, begin_s, end_s, same_clock)
    return tuple(found[number] for number in sorted(found))


def attribute(programs: Sequence[int], spans: Sequence[Span]) -> list[Span | None]:
    """Return for each of some programs, in the order in which one session called them, its span; None without one."""
    found: list[Span | None] = []
    position = 0
    for program in programs:
        own = next((i for i in range(position, len(spans)) if spans[i][0] == program), None)
        found.append(None if own is None else spans[own])
        position = position if own is None else own + 1
    return found


def numbered_parts(placement: Placement) -> Iterator[tuple[int, BoundProgram]]:
    """Yield the parts that daemons run, bound, each with its number among all steps: that of its partition."""
    numbers = (number for number, step in enumerate(placement.steps) if isinstance(step, Part))
    yield from zip(numbers, placement.bound, strict=True)


def _all_within(spans: Sequence[Span | None], began_ns: int, ended_ns: int) -> bool:
    """Say whether what ran did so during the call, as it must by the client's clock.

    An endpoint of this machine may be the near end of a tunnel; then its spans hardly happen to be.
    """
    return all(span is None or began_ns <= span[1] <= span[2] <= ended_ns for span in spans)
