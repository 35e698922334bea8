"""A silent connection is trusted for a while, and the one in its place for twice as long."""

from __future__ import annotations

from dynamo_genie.runtime.attachment.trust import FIRST_S, MAX_S, Trust


def silences(trust: Trust, times: int) -> list[float]:
    """For how long it trusts a connection on which nothing comes, time after time, in seconds."""
    found, now, since = [], 0.0, 0.0
    while len(found) < times:
        if trust.exhausted(now):
            found.append(now - since)
            since = now + 1.0  # it begins when it is asked next
        now += 1.0
    return found


def test_trust_grows_each_time_that_a_new_connection_was_of_no_use() -> None:
    assert silences(Trust(), 6) == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, MAX_S, MAX_S]


def test_what_comes_ends_a_silence() -> None:
    trust = Trust()
    for now in range(0, 100, 5):
        assert not trust.exhausted(float(now))
        trust.heard()
    assert silences(trust, 1) == [FIRST_S]
