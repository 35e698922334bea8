"""Spans of workers find the parts that they belong to, and say whose clock they are by."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from dynamo_genie.calls.part_spans import Span, attribute, part_spans
from dynamo_genie.calls.parts import Part
from dynamo_genie.observe import PartSpan

S = 10**9
BEGAN = 1_000 * S


class Stub(NamedTuple):
    """Has what is read of a placement, a connection, a binding or an inspection, and nothing else."""

    session: Any = None
    program: int = 0
    endpoint: str = ""
    steps: tuple[Any, ...] = ()
    bound: tuple[Any, ...] = ()
    connections: tuple[Any, ...] = ()
    spans: tuple[Span, ...] = ()


def placement_of(*parts: tuple[str, int] | None) -> Any:
    """A placement of parts, each the session and the program's number, that has None where the client has a turn."""
    part = object.__new__(Part)
    there = [each for each in parts if each is not None]
    return Stub(
        steps=tuple(part if each is not None else None for each in parts),
        bound=tuple(Stub(session=session, program=program) for session, program in there),
        connections=tuple(Stub(session=name, endpoint=name) for name in dict.fromkeys(name for name, _ in there)),
    )


def spans(*of: tuple[int, float, float]) -> Any:
    """An inspection with spans: program, begin and end in seconds of the call."""
    return Stub(spans=tuple((program, BEGAN + int(begin * S), BEGAN + int(end * S)) for program, begin, end in of))


def test_parts_are_found_by_program_in_the_order_of_their_calls() -> None:
    noted = [(7, 0, 1), (3, 1, 2), (7, 2, 3), (9, 3, 4), (7, 5, 6)]
    assert attribute([7, 7, 9], noted) == [(7, 0, 1), (7, 2, 3), (9, 3, 4)]


def test_a_part_that_ran_nowhere_has_no_span_and_takes_none_from_the_next() -> None:
    assert attribute([7, 8, 9], [(7, 0, 1), (9, 1, 2)]) == [(7, 0, 1), None, (9, 1, 2)]
    assert attribute([7, 7], [(7, 0, 1)]) == [(7, 0, 1), None]


def test_each_session_has_its_own_numbers_and_the_client_takes_its_turn_among_the_parts() -> None:
    a, b = "tcp://127.0.0.1:1", "ipc:///tmp/b"
    placement: Any = placement_of((a, 1), (b, 1), None, (a, 2))
    states: Any = {a: spans((1, 0.5, 1.0), (2, 3.0, 4.0)), b: spans((5, 0.0, 0.5), (1, 1.5, 2.5))}
    assert part_spans(placement, states, BEGAN, BEGAN + 5 * S) == (
        PartSpan(0, a, 0.5, 1.0, True),
        PartSpan(1, b, 1.5, 2.5, True),
        PartSpan(3, a, 3.0, 4.0, True),
    )


@pytest.mark.parametrize(
    ("endpoint", "begin_s", "same"),
    [
        ("tcp://127.0.0.1:1", 0.5, True),
        ("tcp://127.0.0.1:1#1", 0.5, True),
        ("tcp://10.0.0.5:1", 0.5, False),  # another machine, whatever its clock says
        ("tcp://127.0.0.1:1", -0.5, False),  # the end of a tunnel: it ran before it was called
        ("tcp://127.0.0.1:1", 4.5, False),  # or is not through when we have heard that it is
    ],
)
def test_a_clock_is_the_clients_only_if_it_is_on_its_machine_and_agrees(
    endpoint: str, begin_s: float, same: bool
) -> None:
    states: Any = {endpoint: spans((1, begin_s, begin_s + 1))}
    [span] = part_spans(placement_of((endpoint, 1)), states, BEGAN, BEGAN + 5 * S)
    assert span == PartSpan(0, endpoint, begin_s, begin_s + 1, same)
