"""The topology that a graph may run on: devices and the links between them. Plain data, no sockets."""

from __future__ import annotations

from collections.abc import Mapping
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
class LinkCost:
    """A link as a transfer meets it, with the network cards at its two ends; speeds are seconds a byte.

    A card is as fast as the fastest link that leaves its end, or that leads there: nothing has shown it to be faster.
    So links of one end that are all as fast as its card share it, and a slow link leaves the rest of it to others.
    """

    latency_s: float
    link_s_per_byte: float
    source_card_s_per_byte: float
    target_card_s_per_byte: float


@dataclass(frozen=True)
class Topology:
    """The devices, in the order in which the user named them, and a link for each ordered pair of ends."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...]

    @cached_property
    def _by_ends(self) -> dict[tuple[str, str], Link]:
        return {(link.source, link.target): link for link in self.links}

    @cached_property
    def link_costs(self) -> Mapping[tuple[int | None, int], LinkCost]:
        """The links to devices, by the positions of their ends in `devices`; None is the client."""
        number = {device.name: position for position, device in enumerate(self.devices)}
        leaving: dict[str, float] = {}
        arriving: dict[str, float] = {}
        for link in self.links:
            leaving[link.source] = max(leaving.get(link.source, 0.0), link.bytes_per_s)
            arriving[link.target] = max(arriving.get(link.target, 0.0), link.bytes_per_s)
        return {
            (number.get(link.source), number[link.target]): LinkCost(
                link.latency_s, 1 / link.bytes_per_s, 1 / leaving[link.source], 1 / arriving[link.target]
            )
            for link in self.links
            if link.target in number
        }

    def link(self, source: str, target: str) -> Link:
        """Return the link from one end to another."""
        return self._by_ends[source, target]
