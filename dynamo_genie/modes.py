"""What may stay in the daemon and what must travel: the ablation from a blind system to one that understands.

All modes run the same graphs in the same daemon. `semantic` is the product; the others take one thing away at a time,
so that what each is worth can be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Mode:
    """One mode of running compiled graphs.

    Attributes:
        name: What `options={"mode": ...}` calls it.
        remote: Whether graphs run in a daemon at all.
        weights_stay: Whether parameters and buffers are sent once and kept; else with each call.
        results_stay: Whether results stay in the daemon behind handles; else each call brings all of them here.
        understood: Whether the daemon is told what values are, so that caches grow in place, and is asked which
            weights it has before they are sent.
        placement: How a graph is spread over several daemons unless an option says otherwise.
    """

    name: str
    remote: bool
    weights_stay: bool
    results_stay: bool
    understood: bool
    placement: Literal["semantic", "blind"]


MODES = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            Mode("local", False, True, True, False, "blind"),
            Mode("naive", True, False, False, False, "blind"),
            Mode("remote_cache", True, True, False, False, "blind"),
            Mode("handle", True, True, True, False, "blind"),
            Mode("semantic", True, True, True, True, "semantic"),
        )
    }
)
"""By name, from the one without a network to the product."""
