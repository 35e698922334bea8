"""A network for measurements: hosts as network namespaces of this machine, links between them shaped and measured."""

from __future__ import annotations

from dynamo_genie.bench.network.counters import InterfaceCounters, read_counters
from dynamo_genie.bench.network.hosts import Network
from dynamo_genie.bench.network.keepalives import KeepAlives
from dynamo_genie.bench.network.opening import open_network
from dynamo_genie.bench.network.spec import parse_network

__all__ = ["InterfaceCounters", "KeepAlives", "Network", "open_network", "parse_network", "read_counters"]
