"""Plots of pipelines."""

from __future__ import annotations

import statistics
from types import MappingProxyType
from typing import Any

from dynamo_genie.bench.study.records import Study
from dynamo_genie.bench.study.report.pipeline_tables import shared_calls

_COLOURS = MappingProxyType({"gathered": "#009E73", "spread": "#56B4E9", "": "#E69F00"})
_WIDTH = 0.4


def networks_of(study: Study) -> list[str]:
    """Return the networks on which two daemons shared a call."""
    return list(dict.fromkeys(shared.auto.network for shared in shared_calls(study)))


def speeds(study: Study, network: str, axes: Any) -> None:
    """Draw how many times as fast as one daemon two are, a bar for each place where caches may end."""
    found = [shared for shared in shared_calls(study) if shared.auto.network == network]
    calls = list(dict.fromkeys((shared.auto.model, shared.label) for shared in found))
    shifts = {"gathered": -_WIDTH / 2, "spread": _WIDTH / 2, "": 0.0}
    for layout in dict.fromkeys(shared.auto.placement for shared in found):
        mine = [shared for shared in found if shared.auto.placement == layout]
        places = [calls.index((shared.auto.model, shared.label)) + shifts[layout] for shared in mine]
        heights = [statistics.median(shared.times) for shared in mine]
        axes.bar(places, heights, _WIDTH, color=_COLOURS[layout], label=f"caches {layout}" if layout else "images")
    axes.axhline(1, color="#000000", linewidth=0.8)
    names = [f"{model}\n{rows}" for model, rows in calls]
    axes.set_xticks(range(len(calls)), names, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("times as fast as one daemon")
    axes.set_title(f"two daemons, {network}", fontsize=9)
    axes.legend(fontsize=7)
