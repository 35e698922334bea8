"""What may be watched while a graph is compiled and called: the interface between the staircase and its dumps.

Nobody watches by default, and then nothing of this runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from dynamo_genie.passes.graphs.pipeline import PassRecord
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.understanding.analysis import Analysis


@dataclass(frozen=True)
class EngineUse:
    """What ran the program of one partition, and why."""

    partition: int
    engine: str
    reason: str


@dataclass(frozen=True)
class PartSpan:
    """When a daemon worked on one partition, by its own clock, in seconds since the call began by the client's.

    Attributes:
        device: The daemon, as the plan names it.
        same_clock: Whether the two clocks are known to be one; if not, only spans of one daemon can be compared.
    """

    partition: int
    device: str
    start_s: float
    end_s: float
    same_clock: bool


@dataclass(frozen=True)
class CallTraffic:
    """What one call moved and how long it took, measured.

    Attributes:
        sent: Bytes from the client to all daemons, by tensor class.
        received: Bytes from all daemons to the client, by tensor class.
        between: Bytes from daemon to daemon, by tensor class.
        wall_s: From the call until its results could be used, without waiting for values nobody reads.
        engines: What ran the partitions' programs; empty in a prediction.
        spans: When they ran, as far as the daemons know; empty in a prediction.
    """

    sent: Mapping[str, int]
    received: Mapping[str, int]
    between: Mapping[str, int]
    wall_s: float
    engines: tuple[EngineUse, ...] = ()
    spans: tuple[PartSpan, ...] = ()


class GraphObserver:
    """Follows one ATen graph from its capture to its calls. It may look and change nothing. This one does nothing."""

    def captured(self, gm: GraphModule) -> None:
        """The graph as AOTAutograd made it."""

    def passed(self, record: PassRecord, gm: GraphModule) -> None:
        """The graph after one pass, with the facts found so far on its nodes."""

    def analysed(self, gm: GraphModule, analysis: Analysis) -> None:
        """All passes are through."""

    def placed(self, gm: GraphModule, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> None:
        """The graph was placed for a call, and so much should move at each call like it."""

    def called(self, plan: PlacementPlan, measured: CallTraffic) -> None:
        """A call under this plan moved so much."""
