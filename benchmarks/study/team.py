"""The processes of one group of the study: a client for each member, with daemons of its own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from dynamo_genie.bench.daemon import TCP, running_daemon
from dynamo_genie.bench.network import Network
from dynamo_genie.bench.report import Say
from dynamo_genie.bench.study.orders import Ready, Setup
from dynamo_genie.bench.study.plan import Group, Member, Protocol
from dynamo_genie.bench.study.processes import ClientProcess
from dynamo_genie.errors import GenieError

CLIENT = "client"
SETTING_UP_AT_A_TIME = max(5, os.cpu_count() or 1)


def daemon_hosts(count: int) -> tuple[str, ...]:
    """Return the names of the hosts of daemons."""
    return tuple(f"daemon{number}" for number in range(count))


@dataclass
class Player:
    """A member and its clients: those that are ready to be measured, and the first reason why one could not be.

    Attributes:
        ready: What the clients answered that have compiled.
        daemons: The endpoints of its own.
    """

    member: Member
    clients: list[ClientProcess] = field(default_factory=list)
    ready: list[Ready] = field(default_factory=list)
    daemons: Sequence[str] = ()
    failed: str = ""


@contextmanager
def assembled(
    group: Group, protocol: Protocol, network: Network, say: Say
) -> Iterator[tuple[list[Player], dict[str, str]]]:
    """Yield the members that could be set up, and for the others the reason why not; all processes end with the block.

    Only `SETTING_UP_AT_A_TIME` clients compile at a time, or a machine with few cores would starve those that only
    have to answer a heartbeat.

    Raises:
        GenieError: `local` could not be set up, so that nothing could be compared.
    """
    with ExitStack() as running:
        players = []
        waiting: deque[tuple[Player, ClientProcess]] = deque()
        for member in group.members:
            say(f"starting {member.label}")
            remote = group.is_remote(member)
            player = Player(member, daemons=_daemons(running, group, protocol, network) if remote else ())
            players.append(player)
            for number in range(group.sessions if remote else 1):
                if len(waiting) >= SETTING_UP_AT_A_TIME:
                    _wait_for(*waiting.popleft(), say)
                client = _start(running, player, number, group, protocol, network)
                waiting.append((player, client))
        while waiting:
            _wait_for(*waiting.popleft(), say)
        failed = {one.member.label: one.failed for one in players if one.failed}
        yield [one for one in players if not one.failed], failed


def _wait_for(player: Player, client: ClientProcess, say: Say) -> None:
    """Wait until a client has compiled; one that cannot takes its whole member with it."""
    if player.failed:
        return
    say(f"waiting for {client.name} to compile")
    try:
        player.ready.append(client.ready())
    except GenieError as error:
        if player.member.mode == "local":
            raise
        player.failed = str(error).splitlines()[0]  # the rest is where, on this machine
        for one in player.clients:
            one.close()


def _start(
    running: ExitStack, player: Player, number: int, group: Group, protocol: Protocol, network: Network
) -> ClientProcess:
    """Start a client of a member and tell it what to set up."""
    member, daemons = player.member, player.daemons
    options: dict[str, str | list[str]] = {"daemons": list(daemons)} if daemons else {}
    if member.placement:
        options["placement"] = member.placement
    client = ClientProcess(f"client {number} of {member.label}", partial(network.command, CLIENT))
    running.callback(client.close)
    player.clients.append(client)
    if player.failed:
        client.close()
        return client
    device = "cpu" if daemons else protocol.device
    client.say(
        Setup(
            member.mode, options, group.model, protocol.dtype, device, group.prompt, group.steps or protocol.steps,
            protocol.seed, protocol.warm_ups, bool(network.namespaces), group.task, group.batch,
        )
    )  # fmt: skip
    return client


def _daemons(running: ExitStack, group: Group, protocol: Protocol, network: Network) -> list[str]:
    if protocol.daemon:
        return [protocol.daemon]
    endpoints = []
    for host in daemon_hosts(group.daemons):
        daemon = running.enter_context(running_daemon(TCP, protocol.device, partial(network.command, host)))
        port = daemon.endpoint.rpartition(":")[2]
        endpoints.append(f"tcp://{network.address(host)}:{port}")  # it listens on its loopback address
    return endpoints


def pids_of(players: Sequence[Player], protocol: Protocol) -> list[int]:
    """Return the workers of all daemons; none of a daemon that runs elsewhere, whose numbers are others' here."""
    if protocol.daemon:
        return []
    return [pid for player in players for ready in player.ready for pid in ready.workers]


def lease_ports_of(players: Sequence[Player]) -> tuple[int, ...]:
    """Return the ports of all daemons, where their leases are kept."""
    return tuple(int(endpoint.rpartition(":")[2]) for player in players for endpoint in player.daemons)
