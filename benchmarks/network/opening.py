"""Makes a network and removes it again.

Every host is a namespace, every pair of hosts has a veth pair of its own, shaped by `tc tbf` at both ends. A host has
one address, on its loopback interface, whoever asks. What arrives for it from outside is led to its loopback ports,
where daemons listen without keys: by way of a relay where a delay is asked for, by the kernel otherwise.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import permutations
from types import MappingProxyType

import msgspec

from dynamo_genie.bench.daemon import started
from dynamo_genie.bench.network import namespaces
from dynamo_genie.bench.network.hosts import Network
from dynamo_genie.bench.network.namespaces import name_of, run
from dynamo_genie.bench.network.spec import NetworkShape
from dynamo_genie.child_process import child_environment
from dynamo_genie.errors import GenieError, OptionError

START_LIMIT_S = 20.0
PROBE_LIMIT_S = 60.0
CLEAN_UP_LIMIT_S = 60.0
TOOLS = MappingProxyType({"ip": "iproute2", "tc": "iproute2", "iptables": "iptables"})
_BURST_S = 100e-6
_LEAST_BURST = 128 << 10
_QUEUE = 32 << 20


@contextlib.contextmanager
def open_network(shape: NetworkShape, hosts: Sequence[str]) -> Iterator[Network]:
    """Yield a network of these hosts, measured between the first and the second; all of it is gone afterwards.

    Where namespaces cannot be made, the hosts are this machine's loopback interface, and `shape.note` says why.

    Raises:
        GenieError: A tool is missing, or the system refuses a step; the message says which.
    """
    obstacle = _obstacle(shape)
    if obstacle:
        shape = msgspec.structs.replace(shape, note=obstacle)
        yield _measured(Network(shape, dict.fromkeys(hosts, "127.0.0.1"), {}), hosts)
        return
    namespaces.remove(namespaces.abandoned())
    names = {host: name_of(os.getpid(), host) for host in hosts}
    with _guarded(list(names.values())), contextlib.ExitStack() as running:
        addresses = {host: f"10.77.0.{number}" for number, host in enumerate(hosts, 1)}
        _make_hosts(names, addresses)
        for one, other in permutations(hosts, 2):
            _join(names, addresses, one, other)
            _slow_down(names[one], f"to-{other}", shape)
        for host in hosts:
            _lead_in(running, names[host], addresses[host], shape)
        yield _measured(Network(shape, addresses, names), hosts)


def _obstacle(shape: NetworkShape) -> str:
    """Say why no network can be made; empty where it can.

    Raises:
        OptionError: Only a tool is missing.
    """
    if not shape.shaped:
        return "the loopback interface of one machine, not shaped"
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "NOT SHAPED: loopback, because network namespaces need Linux and root"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise OptionError(f"--network needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")
    return ""


@contextlib.contextmanager
def _guarded(names: list[str]) -> Iterator[None]:
    """Have namespaces removed when the block, or this process, ends."""
    if taken := [name for name in names if name in namespaces.existing()]:
        raise GenieError(f"this process has a network already: {', '.join(taken)}")
    guardian = subprocess.Popen(
        _module("guardian", *names),
        stdin=subprocess.PIPE,
        env=child_environment(os.environ),
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait(CLEAN_UP_LIMIT_S)


def _make_hosts(names: dict[str, str], addresses: dict[str, str]) -> None:
    for host, name in names.items():
        run("ip", "netns", "add", name)
        # no IPv6 of its own on the links: its neighbour discovery would be counted; loopback ports take what comes in
        _inside(name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv4.conf.all.route_localnet=1")
        _inside(name, "ip", "link", "set", "lo", "up")
        _inside(name, "ip", "address", "add", f"{addresses[host]}/32", "dev", "lo")


def _join(names: dict[str, str], addresses: dict[str, str], one: str, other: str) -> None:
    """Give `one` its way to `other`; the pair of interfaces is made once."""
    if list(names).index(one) < list(names).index(other):
        peer = ["peer", "name", f"to-{one}", "netns", names[other]]
        run("ip", "link", "add", f"to-{other}", "netns", names[one], "type", "veth", *peer)
    _inside(names[one], "ip", "link", "set", f"to-{other}", "up")
    route = [f"{addresses[other]}/32", "dev", f"to-{other}", "src", addresses[one]]
    _inside(names[one], "ip", "route", "add", *route)


def _slow_down(name: str, interface: str, shape: NetworkShape) -> None:
    if shape.rate_bits_s is not None:
        burst = max(_LEAST_BURST, int(shape.rate_bits_s / 8 * _BURST_S))
        bucket = ["rate", f"{shape.rate_bits_s:.0f}bit", "burst", str(burst), "limit", str(_QUEUE)]
        _inside(name, "tc", "qdisc", "add", "dev", interface, "root", "tbf", *bucket)
    if shape.loss:
        chance = ["-m", "statistic", "--mode", "random", "--probability", f"{shape.loss:.6f}"]
        _inside(name, "iptables", "-w", "-A", "INPUT", "-i", interface, *chance, "-j", "DROP")


def _lead_in(running: contextlib.ExitStack, name: str, address: str, shape: NetworkShape) -> None:
    """Lead what arrives for a host to its loopback ports, through a relay where there is a delay."""
    destination = "127.0.0.1"
    if shape.delay_s:
        relay = started(["ip", "netns", "exec", name, *_module("relay", repr(shape.delay_s))], "a relay", START_LIMIT_S)
        destination += f":{running.enter_context(relay)}"
    arrived = ["-t", "nat", "-A", "PREROUTING", "-i", "to-+", "-p", "tcp", "-d", address]
    _inside(name, "iptables", "-w", *arrived, "-j", "DNAT", "--to-destination", destination)


def _inside(name: str, *command: str) -> None:
    run("ip", "netns", "exec", name, *command)


def _module(name: str, *arguments: str) -> list[str]:
    """Return the command line of one of this package's modules."""
    return [sys.executable, "-m", f"dynamo_genie.bench.network.{name}", *arguments]


def _measured(network: Network, hosts: Sequence[str]) -> Network:
    """Return a network with the round trip and the rate that its first link has."""
    client, server = hosts[0], hosts[min(1, len(hosts) - 1)]
    with started(network.command(server, _module("probe", "serve")), "the probe", START_LIMIT_S) as port:
        done = subprocess.run(
            network.command(client, _module("probe", network.address(server), port)),
            capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False, env=child_environment(os.environ),
        )  # fmt: skip
    if done.returncode:
        raise GenieError(f"the network between {client} and {server} could not be measured: {done.stderr[-2000:]}")
    round_trip_s, rate_bits_s = (float(word) for word in done.stdout.split())
    shape = msgspec.structs.replace(network.shape, obtained_round_trip_s=round_trip_s, obtained_rate_bits_s=rate_bits_s)
    return Network(shape, network.addresses, network.namespaces)
