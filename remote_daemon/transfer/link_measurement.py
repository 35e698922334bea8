"""The measurement of a link, with a few small pings and then padded ones. A state machine: time is passed in."""

from __future__ import annotations

from dynamo_genie.runtime.wire import messages as m

PINGS = 5
PROBE_NBYTES = 1 << 20
PROBES = 4
SLOW_S = 0.1
"""A link that takes longer than this for the first probe is measured well enough by it."""


class LinkMeasurement:
    """Feed it each answer; it says what to send next, or the result."""

    def __init__(self, now: float) -> None:
        self._sent_at = now
        self._number = 0
        self._outstanding = 0
        self._round_trip_s = float("inf")

    def start(self) -> list[m.PeerPing]:
        """Return the first ping."""
        return self._pings(1, b"", self._sent_at)

    def pong(self, number: int, now: float) -> list[m.PeerPing] | m.PeerMeasured:
        """Take an answer. The result, half the best round trip and throughput one way, belongs to no request yet."""
        if number != self._number - self._outstanding + 1:
            return []  # of an earlier measurement
        self._outstanding -= 1
        elapsed_s = now - self._sent_at
        if self._outstanding:
            return []
        if number <= PINGS:
            self._round_trip_s = min(self._round_trip_s, elapsed_s)
            return self._pings(1, b"" if number < PINGS else bytes(PROBE_NBYTES), now)
        probes = 1 if number == PINGS + 1 else PROBES
        if probes == 1 and elapsed_s < SLOW_S:
            return self._pings(PROBES, bytes(PROBE_NBYTES), now)
        transfer_s = max(elapsed_s - self._round_trip_s, 1e-6)
        return m.PeerMeasured(0, self._round_trip_s / 2, probes * PROBE_NBYTES / transfer_s)

    def _pings(self, count: int, padding: bytes, now: float) -> list[m.PeerPing]:
        first = self._number + 1
        self._number += count
        self._outstanding, self._sent_at = count, now
        return [m.PeerPing(number, padding) for number in range(first, first + count)]
