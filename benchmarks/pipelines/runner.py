"""Measures settings into a document of the study: a network, daemons on its hosts, and a client process a setting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import msgspec

from dynamo_genie.bench.daemon import TCP, running_daemon
from dynamo_genie.bench.network import Network, open_network, parse_network
from dynamo_genie.bench.pipelines.orders import Answer, Order, WayOrder, WayTaken
from dynamo_genie.bench.pipelines.plan import CallWay, Repeats, Setting
from dynamo_genie.bench.report import Say
from dynamo_genie.bench.study.records import Gap, Row, Study, begun_study, write_study
from dynamo_genie.child_process import child_environment
from dynamo_genie.errors import GenieError

CLIENT = "client"
HOSTS = ("daemon0", "daemon1")
SETTING_LIMIT_S = 1800.0


class PipelineRunner:
    """Measures settings one after the other; the document is rewritten after each."""

    def __init__(self, repeats: Repeats, path: Path, say: Say) -> None:
        self._repeats = repeats
        self._path = path
        self._say = say
        self.study = begun_study("pipelines", repeats.seed, repeats.measured)

    def run(self, settings: Sequence[Setting]) -> Study:
        """Measure all settings and return the document.

        Raises:
            GenieError: A network could not be made, or a client did not answer.
        """
        for name, of_one in groupby(settings, key=lambda setting: setting.network):
            with open_network(parse_network(name), (CLIENT, *HOSTS)) as network, ExitStack() as running:
                self._change(networks=(*self.study.networks, network.shape))
                roomy = _daemons(running, network, "0")
                for setting in of_one:
                    self._measure(setting, network, roomy)
        self._change(complete=True)
        return self.study

    def _measure(self, setting: Setting, network: Network, roomy: Sequence[str]) -> None:
        self._say(f"{setting.model}, {setting.rows} {_ROWS[setting.phase]}, network {setting.network}")
        with ExitStack() as running:
            scarce = _daemons(running, network, self._limit(setting)) if setting.spread else ()
            order = self._order(setting, roomy, scarce)
            taken = _carried_out(order, network).ways
        rows = rows_of(setting, taken, self._repeats, network.shape.name)
        gaps = [
            Gap(f"{way.label}, {setting.model}, {setting.rows} {_ROWS[setting.phase]}, {setting.network}", one.error)
            for way, one in zip(setting.ways, taken, strict=True)
            if one.error
        ]
        for gap in gaps:
            self._say(f"not measured: {gap.what}: {gap.reason}")
        self._change(rows=(*self.study.rows, *rows), gaps=(*self.study.gaps, *gaps))

    def _limit(self, setting: Setting) -> str:
        from dynamo_genie.bench.pipelines.models import scarce_nbytes
        from dynamo_genie.tensors import TORCH_DTYPES

        return str(scarce_nbytes(setting.model, setting.rows, TORCH_DTYPES[self._repeats.dtype].itemsize))

    def _order(self, setting: Setting, roomy: Sequence[str], scarce: Sequence[str]) -> Order:
        plan = self._repeats
        ways = tuple(_way_order(way, scarce if way.layout == "spread" else roomy) for way in setting.ways)
        return Order(
            setting.phase, setting.model, setting.rows, setting.tokens, setting.watched, plan.measured,
            plan.warm_ups, plan.seed, plan.dtype, ways,
        )  # fmt: skip

    def _change(self, **changes: object) -> None:
        self.study = msgspec.structs.replace(self.study, **changes)
        write_study(self._path, self.study)


_ROWS = MappingProxyType({"prefill": "tokens", "vision": "images"})


def rows_of(setting: Setting, taken: Sequence[WayTaken], repeats: Repeats, network: str) -> list[Row]:
    """Return rows of calls, of the wait after them, and of tokens; void where answers are not those of one daemon."""
    from dynamo_genie.bench.pipelines.work import first_difference

    good = [(way, one) for way, one in zip(setting.ways, taken, strict=True) if not one.error]
    found = []
    for way, one in good:
        void = first_difference(taken[0].answers, one.answers)
        found += list(_rows(setting, way, one, void, repeats, network))
    return sorted(found, key=lambda row: _PHASES.index(row.phase))


_PHASES = ("prefill", "vision", "after", "decode")


def _rows(setting: Setting, way: CallWay, one: WayTaken, void: str, repeats: Repeats, network: str) -> Iterator[Row]:
    tokens = setting.phase == "prefill"
    call = Row(
        mode=way.mode,
        phase=setting.phase,
        model=setting.model,
        dtype=repeats.dtype,
        device="cpu",
        network=network,
        prompt=setting.rows if tokens else 0,
        seconds=tuple((second,) for second in one.seconds),
        steps=len(one.seconds),
        sent=one.sent,
        received=one.received,
        peer_bytes=one.peer_bytes,
        busy_s=one.busy_s,
        placement=way.layout,
        batch=1 if tokens else setting.rows,
        foretold=one.foretold,
        void=void,
    )
    yield call
    bare = msgspec.structs.replace(call, sent={}, received={}, peer_bytes={}, busy_s=None, foretold=None)
    yield msgspec.structs.replace(bare, phase="after", seconds=tuple((second,) for second in one.after))
    if one.decode:
        decoded = {"seconds": (one.decode,), "steps": len(one.decode), "peer_bytes": one.decode_peer_bytes}
        yield msgspec.structs.replace(bare, phase="decode", **decoded)


def _daemons(running: ExitStack, network: Network, memory_limit: str) -> list[str]:
    """Start a daemon on each host; return where they are reached."""
    found = []
    for host in HOSTS:
        daemon = running.enter_context(running_daemon(TCP, "cpu", partial(network.command, host), memory_limit))
        found.append(f"tcp://{network.address(host)}:{daemon.endpoint.rpartition(':')[2]}")
    return found


def _way_order(way: CallWay, daemons: Sequence[str]) -> WayOrder:
    options: dict[str, str | list[str]] = {"daemons": list(daemons[: way.daemons])}
    if way.daemons > 1:
        options["pipeline"] = way.mode
    return WayOrder(way.mode, way.layout, options)


def _carried_out(order: Order, network: Network) -> Answer:
    """Run a client on its host.

    Raises:
        GenieError: It failed; the message ends with its log.
    """
    done = subprocess.run(
        network.command(CLIENT, [sys.executable, "-m", "dynamo_genie.bench.pipelines.client"]),
        input=msgspec.json.encode(order), capture_output=True, timeout=SETTING_LIMIT_S, check=False,
        env=child_environment(os.environ),
    )  # fmt: skip
    if done.returncode:
        log = done.stderr[-3000:].decode(errors="replace").strip()
        raise GenieError(f"the client of {order.model} ended with {done.returncode}; its log ends: {log}")
    return msgspec.json.decode(done.stdout, type=Answer)
