"""The topology that a graph may run on: devices and the links between them. Plain data, no sockets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

CLIENT = "client"
"""The name of the program's own end of a link."""


@dataclass(frozen=True)
class Device:
    """One daemon's device.

    Attributes:
        name: The daemon's endpoint.
        memory_nbytes: What the graph may fill there, what it has there already included.
        flops_per_s: Measured speed of arithmetic, a multiply-add counting two.
        bytes_per_s: Measured speed at which it reads memory.
    """

    name: str
    memory_nbytes: int
    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Link:
    """One direction between two ends; either may be `CLIENT`."""

    source: str
    target: str
    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Topology:
    """The devices, in the order in which the user named them, and a link for each ordered pair of ends."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...]

    @cached_property
    def _by_ends(self) -> dict[tuple[str, str], Link]:
        return {(link.source, link.target): link for link in self.links}

    def link(self, source: str, target: str) -> Link:
        """Return the link from one end to another."""
        return self._by_ends[source, target]
