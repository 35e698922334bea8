"""The processes of one group of the study: a client for each member, with daemons of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from dynamo_genie.bench.daemon import TCP, running_daemon
from dynamo_genie.bench.network import Network
from dynamo_genie.bench.study.orders import Ready, Setup
from dynamo_genie.bench.study.plan import Group, Member, Protocol
from dynamo_genie.bench.study.processes import ClientProcess
from dynamo_genie.errors import GenieError
from dynamo_genie.modes import MODES

CLIENT = "client"
Say = Callable[[str], None]


def daemon_hosts(count: int) -> tuple[str, ...]:
    """Return the names of the hosts of daemons."""
    return tuple(f"daemon{number}" for number in range(count))


@dataclass(frozen=True)
class Player:
    """A member with its clients, ready to be measured; `daemons` are the endpoints of its own."""

    member: Member
    clients: tuple[ClientProcess, ...]
    ready: tuple[Ready, ...]
    daemons: tuple[str, ...]


@contextmanager
def assembled(
    group: Group, protocol: Protocol, network: Network, say: Say
) -> Iterator[tuple[list[Player], dict[str, str]]]:
    """Yield the members that could be set up, and for the others the reason why not; all processes end with the block.

    Raises:
        GenieError: `local` could not be set up, so that nothing could be compared.
    """
    with ExitStack() as running:
        started: list[tuple[Member, list[ClientProcess], list[str]]] = []
        players: list[Player] = []
        failed: dict[str, str] = {}
        for member in group.members:
            say(f"starting {member.label}")
            daemons = _daemons(running, group, protocol, network) if MODES[member.mode].remote else []
            clients = _start(running, member, daemons, group, protocol, network)
            started.append((member, clients, daemons))
        for member, clients, daemons in started:
            say(f"waiting for {member.label} to compile")
            try:
                ready = tuple(client.ready() for client in clients)
            except GenieError as error:
                if member.mode == "local":
                    raise
                failed[member.label] = str(error).splitlines()[0]  # the rest is where, on this machine
                for client in clients:
                    client.close()
                continue
            players.append(Player(member, tuple(clients), ready, tuple(daemons)))
        yield players, failed


def _start(
    running: ExitStack, member: Member, daemons: list[str], group: Group, protocol: Protocol, network: Network
) -> list[ClientProcess]:
    """Start a member's clients and tell them what to set up."""
    options: dict[str, str | list[str]] = {"daemons": daemons} if daemons else {}
    if member.placement:
        options["placement"] = member.placement
    clients = []
    for number in range(group.sessions if daemons else 1):
        name = f"client {number} of {member.label}"
        client = ClientProcess(name, partial(network.command, CLIENT))
        running.callback(client.close)
        device = "cpu" if daemons else protocol.device
        client.say(
            Setup(
                member.mode, options, group.model, protocol.dtype, device, group.prompt, protocol.steps, protocol.seed,
                protocol.warm_ups, bool(network.namespaces),
            )
        )  # fmt: skip
        clients.append(client)
    return clients


def _daemons(running: ExitStack, group: Group, protocol: Protocol, network: Network) -> list[str]:
    if protocol.daemon:
        return [protocol.daemon]
    endpoints = []
    for host in daemon_hosts(group.daemons):
        daemon = running.enter_context(running_daemon(TCP, protocol.device, partial(network.command, host)))
        endpoints.append(_seen_from_elsewhere(daemon.endpoint, network.address(host)))
    return endpoints


def _seen_from_elsewhere(endpoint: str, address: str) -> str:
    """Return the endpoint at which other hosts reach a daemon that listens on its loopback address."""
    return f"tcp://{address}:{endpoint.rpartition(':')[2]}"


def pids_of(players: Sequence[Player], protocol: Protocol) -> list[int]:
    """Return the workers of all daemons; none of a daemon that runs elsewhere, whose numbers are others' here."""
    if protocol.daemon:
        return []
    return [pid for player in players for ready in player.ready for pid in ready.workers]


def lease_ports_of(players: Sequence[Player]) -> tuple[int, ...]:
    """Return the ports of all daemons, where their leases are kept."""
    return tuple(int(endpoint.rpartition(":")[2]) for player in players for endpoint in player.daemons)
