"""Runs the study: groups one after the other, members of a group in turns, the document rewritten after each repeat."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from dynamo_genie.bench.machine import memory_kib, reset_peak_memory
from dynamo_genie.bench.network import Network, open_network, parse_network
from dynamo_genie.bench.report import Say
from dynamo_genie.bench.study.gpu import Gpu
from dynamo_genie.bench.study.orders import Repeat, RepeatDone
from dynamo_genie.bench.study.plan import Group, Protocol
from dynamo_genie.bench.study.records import Gap, Row, Study, begun_study, write_study
from dynamo_genie.bench.study.rows import Taken, rows_of
from dynamo_genie.bench.study.team import CLIENT, Player, assembled, daemon_hosts, lease_ports_of, pids_of
from dynamo_genie.errors import GenieError

START_TOGETHER_S = 0.2


class Runner:
    """Measures groups into one document."""

    def __init__(self, experiment: str, protocol: Protocol, path: Path, say: Say, *, command: str = "") -> None:
        self._protocol = protocol
        self._path = path
        self._say = say
        self._gpu = Gpu()
        self.study = begun_study(experiment, protocol.seed, protocol.repeats, command=command)

    def run(self, groups: Sequence[Group], gaps: Sequence[Gap] = ()) -> Study:
        """Measure all groups and return the document, which is on disk too, whatever happens on the way.

        Raises:
            GenieError: A network could not be made, or `local` not be measured.
        """
        shared = [Gap("a daemon for each mode", "all modes shared the one named by --daemon")]
        self._change(gaps=(*gaps, *(shared if self._protocol.daemon else ())))
        for network, of_one in groupby(groups, key=lambda group: group.network):
            self._run_on(network, list(of_one))
        self._change(complete=True)
        return self.study

    def _run_on(self, name: str, groups: Sequence[Group]) -> None:
        hosts = (CLIENT, *daemon_hosts(max(group.daemons for group in groups)))
        with open_network(parse_network(name), hosts) as network:
            shape = network.shape
            self._change(networks=(*self.study.networks, shape))
            self._say(
                f"network {shape.name}: round trip {(shape.obtained_round_trip_s or 0) * 1e3:.3f} ms, "
                f"{(shape.obtained_rate_bits_s or 0) / 1e9:.2f} Gbit/s obtained. {shape.note}"
            )
            for group in groups:
                self._run_group(group, network)

    def _run_group(self, group: Group, network: Network) -> None:
        self._say(f"{group.model}, prompt {group.prompt}, {group.sessions} session(s), network {group.network}")
        before = self.study.rows
        with assembled(group, self._protocol, network, self._say) as (players, failed):
            where = f"{group.model}, prompt {group.prompt}, sessions {group.sessions}"
            self._leave_out(failed, where)
            for pid in pids_of(players, self._protocol):
                _reset_peak(pid)
            going = [(player, Taken(player.member, player.ready[0])) for player in players]
            every = [taken for _, taken in going]
            for number in range(self._protocol.repeats):
                failed = self._repeat(number, going)
                self._leave_out(failed, f"{where}, from repeat {number + 1} on")
                going = [one for one in going if one[0].member.label not in failed]
                rows = [rows_of(one, group, self._protocol, network.shape.name) for one in every]
                self._change(rows=(*before, *_by_phase(rows)))

    def _leave_out(self, failed: Mapping[str, str], where: str) -> None:
        """Note who is not measured, and why."""
        gaps = [Gap(f"{label}, {where}", why) for label, why in failed.items()]
        for gap in gaps:
            self._say(f"not measured: {gap.what}: {gap.reason}")
        self._change(gaps=(*self.study.gaps, *gaps))

    def _repeat(self, number: int, going: Sequence[tuple[Player, Taken]]) -> dict[str, str]:
        """Measure each member once; who is first changes from repeat to repeat. Return who failed, and why."""
        self._say(f"repeat {number + 1} of {self._protocol.repeats}")
        answers: dict[int, tuple[RepeatDone, ...]] = {}
        failed: dict[str, str] = {}
        ports = lease_ports_of([player for player, _ in going])
        for i in [(number + i) % len(going) for i in range(len(going))]:
            player, taken = going[i]
            try:
                with self._gpu.sampled(taken.gpu_samples):
                    answers[i] = _measure(player, ports)
            except GenieError as error:
                if player.member.mode == "local":
                    raise
                failed[player.member.label] = str(error).splitlines()[0]  # the rest is where, on this machine
                for client in player.clients:
                    client.close()
                continue
            pids = pids_of([player], self._protocol)
            taken.daemon_peak_bytes = _peak(pids)
            taken.daemon_gpu_peak_bytes = self._gpu.memory_of(pids) if pids else None
        right = answers[0][0].answer
        for i, answer in answers.items():
            going[i][1].compare(right, answer)
        return failed

    def _change(self, **changes: object) -> None:
        self.study = msgspec.structs.replace(self.study, **changes)
        write_study(self._path, self.study)


def _measure(player: Player, lease_ports: tuple[int, ...]) -> tuple[RepeatDone, ...]:
    start_at = time.monotonic() + START_TOGETHER_S if len(player.clients) > 1 else 0.0
    for client in player.clients:
        client.say(Repeat(start_at, lease_ports))
    return tuple(client.done() for client in player.clients)


def _by_phase(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """Order rows by phase, then as the members are."""
    with_any = [of_one for of_one in rows if of_one]
    return [row for of_phase in zip(*with_any, strict=True) for row in of_phase]


def _reset_peak(pid: int) -> None:
    try:
        reset_peak_memory(pid)
    except OSError:
        return  # another machine's process


def _peak(pids: Sequence[int]) -> int | None:
    try:
        return sum(memory_kib(pid, "VmHWM") for pid in dict.fromkeys(pids)) * 1024 if pids else None
    except OSError:
        return None
