"""What the runner tells its client process, and what that answers: one JSON document each."""

from __future__ import annotations

import msgspec

from dynamo_genie.bench.pipelines.plan import Layout, Phase
from dynamo_genie.bench.study.records import Foretold


class WayOrder(msgspec.Struct, frozen=True):
    """A way, and the daemons that it has.

    Attributes:
        mode, layout: As in `CallWay`.
        options: Of the backend.
    """

    mode: str
    layout: Layout
    options: dict[str, str | list[str]]


class Order(msgspec.Struct, frozen=True):
    """Measure the ways of one setting in turns.

    Attributes:
        phase, model, rows, tokens, watched: As in `Setting`.
        measured, warm_ups, seed, dtype: As in `Repeats`.
    """

    phase: Phase
    model: str
    rows: int
    tokens: int
    watched: bool
    measured: int
    warm_ups: int
    seed: int
    dtype: str
    ways: tuple[WayOrder, ...]


class WayTaken(msgspec.Struct, frozen=True):
    """What was taken of one way.

    Attributes:
        seconds: Of each call, until its logits are here.
        after: Of each call, the time from then until all daemons were done.
        decode: Of each token that was decoded after a prompt.
        sent, received: Bytes of all these calls, by tensor class.
        peer_bytes: Bytes from daemon to daemon, likewise.
        busy_s: Time in which daemons computed, together, in all these calls.
        decode_peer_bytes: Bytes from daemon to daemon while tokens were decoded.
        answers: A digest of the logits of each call, then tokens, then digests of the caches.
        foretold: Of one more call, which was watched; None where none was, or nothing was shared out.
        error: Why nothing was taken; empty where it was.
    """

    seconds: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    decode: tuple[float, ...] = ()
    sent: dict[str, int] = {}
    received: dict[str, int] = {}
    peer_bytes: dict[str, int] = {}
    busy_s: float = 0.0
    decode_peer_bytes: dict[str, int] = {}
    answers: tuple[str, ...] = ()
    foretold: Foretold | None = None
    error: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What was taken of each way, in the order of the order."""

    ways: tuple[WayTaken, ...]
