from __future__ import annotations

from dynamo_genie.remote_daemon.transfer.link_measurement import (
    PINGS,
    PROBE_NBYTES,
    PROBES,
    LinkMeasurement,
)
from dynamo_genie.runtime.wire import messages as m


def measure(latency_s: float, bytes_per_s: float) -> m.PeerMeasured:
    """Drive a measurement over a link that takes exactly so long."""
    now = 100.0
    state = LinkMeasurement(now)
    found: list[m.PeerPing] | m.PeerMeasured = state.start()
    for _ in range(20):
        assert isinstance(found, list)
        pings = found
        for ping in pings:
            now += len(ping.padding) / bytes_per_s
            if ping is pings[-1]:
                now += 2 * latency_s
            found = state.pong(ping.number, now)
        if isinstance(found, m.PeerMeasured):
            return found
    raise AssertionError("the measurement has no end")


def test_a_fast_link_is_measured_with_several_probes() -> None:
    speed = measure(100e-6, 2e9)
    assert abs(speed.latency_s / 100e-6 - 1) < 1e-6
    assert abs(speed.bytes_per_s / 2e9 - 1) < 1e-3


def test_a_slow_link_is_measured_with_one() -> None:
    speed = measure(0.02, 1e6)
    assert abs(speed.latency_s / 0.02 - 1) < 1e-6
    assert abs(speed.bytes_per_s / 1e6 - 1) < 1e-3


def test_answers_out_of_turn_change_nothing() -> None:
    state = LinkMeasurement(0.0)
    [first] = state.start()
    for number in (0, 2, 7, 1 << 61):
        assert state.pong(number, 1.0) == []
    [second] = state.pong(first.number, 1.0)
    assert second.number == first.number + 1
    assert state.pong(first.number, 1.0) == []


def test_probes_are_frames_that_a_bulk_socket_takes() -> None:
    from dynamo_genie.runtime.wire import codec
    from dynamo_genie.runtime.wire.limits import MAX_BULK_FRAME_NBYTES

    assert len(codec.encode(m.PeerPing((1 << 62) - 1, bytes(PROBE_NBYTES)))) <= MAX_BULK_FRAME_NBYTES
    assert PINGS >= 1 <= PROBES
