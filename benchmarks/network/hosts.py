"""Hosts of a measurement: how to run something on one and how to reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamo_genie.bench.network.spec import NetworkShape
from dynamo_genie.errors import OptionError


@dataclass(frozen=True)
class Network:
    """Hosts that reach one another.

    Attributes:
        shape: What was asked for and what was obtained.
        addresses: IP address by host.
        namespaces: Network namespace by host; empty where all of them are this machine's own.
    """

    shape: NetworkShape
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
