"""The functions beside the backend, before anything is connected."""

from __future__ import annotations

import dynamo_genie
from dynamo_genie.runtime.session.counters import Counters


def test_every_figure_is_there_before_anything_is_connected() -> None:
    dynamo_genie.shutdown()
    found = dynamo_genie.stats()
    total = {**Counters().snapshot(), "live_handles": 0, "client_calls": 0}
    assert found == {"total": total, "daemons": {}, "client_operators": {}}
