"""Hosts of a measurement: how to run something on one, how to reach it, what its interfaces counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamo_genie.bench.network.counters import Counters
from dynamo_genie.bench.network.namespaces import run
from dynamo_genie.bench.study.records import Shape
from dynamo_genie.errors import OptionError


@dataclass(frozen=True)
class Network:
    """Hosts that reach one another.

    Attributes:
        shape: What was asked for and what was obtained.
        addresses: IP address by host.
        namespaces: Network namespace by host; empty where all of them are this machine's own.
    """

    shape: Shape
    addresses: Mapping[str, str]
    namespaces: Mapping[str, str]

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` on a host."""
        self.address(host)
        return ["ip", "netns", "exec", self.namespaces[host], *argv] if self.namespaces else list(argv)

    def address(self, host: str) -> str:
        """Return the IP address at which other hosts reach what listens on a loopback port of this one.

        Raises:
            OptionError: There is no such host.
        """
        if host not in self.addresses:
            raise OptionError(f"no host {host!r} in this network; there are {', '.join(self.addresses)}")
        return self.addresses[host]

    def counters(self, host: str) -> Counters | None:
        """Return what a host's interfaces counted; None where it has none of its own."""
        self.address(host)
        if not self.namespaces:
            return None
        links = json.loads(run("ip", "-n", self.namespaces[host], "-s", "-j", "link", "show"))
        total = Counters()
        for link in links:
            if link["ifname"] != "lo":
                tx, rx = link["stats64"]["tx"], link["stats64"]["rx"]
                total = total + Counters(tx["bytes"], rx["bytes"], tx["packets"], rx["packets"])
        return total
