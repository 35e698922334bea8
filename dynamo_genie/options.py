"""The options of the backend, and the one function that reads the environment for them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from dynamo_genie.engines import AUTO, ENGINES
from dynamo_genie.errors import OptionError
from dynamo_genie.modes import MODES, Mode

ENVIRONMENT_PREFIX = "GENIE_"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

_PORT = re.compile(r"tcp://.*:(\d+)(?:#(?:\d+|\*))?")

ALL_DEVICES = "#*"
"""Behind an endpoint: all devices of that daemon."""


@dataclass(frozen=True)
class LinkSpeed:
    """The speed of the link between two ends, both ways; each is a daemon's endpoint or "client".

    As text: `END~END=LATENCY_S,BYTES_PER_S`, say `client~tcp://gpu-box:7777=0.0001,1.25e9`.
    """

    ends: frozenset[str]
    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Options:
    """What a user may choose; each field is also an environment variable `GENIE_<NAME>`.

    Attributes:
        daemons: Endpoints of the daemons to use; none starts an embedded daemon for this process. `ENDPOINT#N` is a
            daemon's device N, counted from 0, `ENDPOINT#*` all that it has; without either it is the first.
        key_file: The client key file made by `genie keygen`, where the daemon wants one.
        connect_timeout_s: How long to wait for a daemon to let us in.
        request_timeout_s: How long to wait for an answer once we are in.
        progress: Whether to show progress of uploads; None shows it on a terminal only.
        mode: What may stay in the daemon and what must travel; a name in `dynamo_genie.modes.MODES`.
        engine: What runs programs in the daemon; a name in `dynamo_genie.engines.ENGINES`.
        placement: How a graph is spread over several daemons: "semantic" by what the passes found, "blind" at random;
            None leaves it to the mode.
        placement_seed: The seed of "blind".
        links: Links whose speed is given instead of measured; see `LinkSpeed`.
        untracked_weights: What happens before each call to weights of which the kernel cannot tell whether they were
            written (in shared memory, in a file that somebody may be writing, all where it tracks no pages): "hash"
            compares all their bytes; "sample" compares versions and a few bytes, and may miss a sparse write.
        results: Whether results stay in the daemon until they are read ("lazy"), or all but caches come here with the
            call that makes them, as plain tensors ("local"): for programs that are full of native code.
        errors: When an error in the daemon is raised: "late", when something is read that was computed from it, or
            "immediate", by the call itself, which then waits for the daemon.
        recovery: What happens when the worker behind a session is gone: "replay" goes on at another one, which computes
            again what is still wanted, with the same values; "off" ends the session, and all that lived there is lost.
        debug_dir: Where to write what the passes found, the plan and a report, one folder for each graph.
        unsupported: What becomes of an operator that no daemon runs: "client" runs it here and the rest of its graph
            remotely, "error" refuses it.
        pipeline: Whether several daemons may work on pieces of a prompt, or of a batch, at the same time: "auto" where
            that saves time, "off" never.
        exact: Whether pieces must give the bits of the whole; else rounding may differ, as between two batch sizes.
    """

    daemons: tuple[str, ...] = ()
    key_file: str | None = None
    connect_timeout_s: float = 30.0
    request_timeout_s: float = 600.0
    progress: bool | None = None
    mode: Mode = MODES["semantic"]
    engine: str = AUTO
    placement: Literal["semantic", "blind"] | None = None
    placement_seed: int = 0
    links: tuple[LinkSpeed, ...] = ()
    untracked_weights: Literal["hash", "sample"] = "hash"
    results: Literal["lazy", "local"] = "lazy"
    errors: Literal["late", "immediate"] = "late"
    recovery: Literal["replay", "off"] = "replay"
    debug_dir: str | None = None
    unsupported: Literal["client", "error"] = "client"
    pipeline: Literal["auto", "off"] = "auto"
    exact: bool = True

    @property
    def immediate(self) -> bool:
        """Whether each call waits until the daemon has run it, and raises what went wrong there."""
        return self.errors == "immediate"

    @property
    def several(self) -> bool:
        """Whether a graph may be spread over several devices."""
        return len(self.daemons) > 1 or any(daemon.endswith(ALL_DEVICES) for daemon in self.daemons)


def resolve_options(given: Mapping[str, object] | None, environ: Mapping[str, str]) -> Options:
    """Merge options, environment and defaults, in this order of precedence; bad ones raise `OptionError`."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise OptionError(f"options must be a dict such as {{'daemons': ['tcp://HOST:PORT']}}, not {given!r}")
    _refuse_unknown(given)
    values: dict[str, object] = {}
    for name, convert in _CONVERTERS.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if name in given:
            values[name] = convert(f"option {name!r}", given[name])
        elif environ.get(variable, "") != "":
            values[name] = convert(variable, environ[variable])
    return Options(**values)  # type: ignore[arg-type]  # each converter returns its field's type


def _refuse_unknown(given: Mapping[str, object]) -> None:
    known = [field.name for field in dataclasses.fields(Options)]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(f"unknown option {name!r}.{hint} Known: {', '.join(known)}")


def _endpoints(source: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        found = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        found = list(value)
    else:
        raise OptionError(f"{source} must be an endpoint or a list of endpoints, not {value!r}")
    for endpoint in found:
        device = endpoint.rpartition("#")[2] if "#" in endpoint else "0"
        if not endpoint.startswith(("tcp://", "ipc://")) or not (device == "*" or device.isdecimal()):
            raise OptionError(
                f"{source} names {endpoint!r}; write tcp://HOST:PORT or ipc:///PATH, with #N behind it for the "
                "daemon's device N, or #* for all of them"
            )
        port = _PORT.fullmatch(endpoint)
        if port and not 0 < int(port[1]) < 65_536:
            raise OptionError(f"{source} names {endpoint!r}, whose port {port[1]} does not exist; ports are 1 to 65535")
    found = [endpoint.removesuffix("#0") for endpoint in found]
    if len(set(found)) < len(found):
        raise OptionError(f"{source} names a daemon twice: {', '.join(found)}")
    return tuple(found)


def _path(source: str, value: object) -> str | None:
    if value is None:
        return None
    path = value.__fspath__() if hasattr(value, "__fspath__") else value
    if not isinstance(path, str) or not path:
        raise OptionError(f"{source} must be a path, not {value!r}")
    return path


def _mode(source: str, value: object) -> Mode:
    if isinstance(value, Mode):
        return value
    return MODES[_one_of(MODES, source, value)]


def _one_of(known: Collection[str], source: str, value: object) -> str:
    if not isinstance(value, str) or value not in known:
        raise OptionError(f"{source} must be one of {', '.join(known)}, not {value!r}")
    return value


def _policy(source: str, value: object) -> str | None:
    if value is None:
        return None
    if value not in ("semantic", "blind"):
        raise OptionError(f"{source} must be 'semantic' or 'blind', not {value!r}")
    return str(value)


def _integer(source: str, value: object) -> int:
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise OptionError(f"{source} must be an integer, not {value!r}")
    return value


def _links(source: str, value: object) -> tuple[LinkSpeed, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(";") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{source} must be a list of links, each {_LINK_FORM}, not {value!r}")
    return tuple(item if isinstance(item, LinkSpeed) else _link(source, item) for item in value)


_LINK_FORM = "'END~END=LATENCY_S,BYTES_PER_S'"


def _link(source: str, item: object) -> LinkSpeed:
    ends, _, speed = str(item).rpartition("=")
    names = frozenset(end.strip() for end in ends.split("~"))
    try:
        latency_s, bytes_per_s = (float(part) for part in speed.split(","))
    except ValueError:
        latency_s = bytes_per_s = math.nan
    if len(names) != 2 or not (0 <= latency_s < math.inf and 0 < bytes_per_s < math.inf):
        raise OptionError(f"{source}: {item!r} is no link; write {_LINK_FORM}, an end is an endpoint or 'client'")
    return LinkSpeed(names, latency_s, bytes_per_s)


def _seconds(source: str, value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise OptionError(f"{source} must be a positive number of seconds, not {value!r}")
    return seconds


def _flag(source: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        if word == "auto":
            return None
    raise OptionError(f"{source} must be true, false or None (on a terminal only), not {value!r}")


def _yes_or_no(source: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise OptionError(f"{source} must be true or false, not {value!r}")


_CONVERTERS: Mapping[str, Callable[[str, object], object]] = MappingProxyType(
    {
        "daemons": _endpoints,
        "key_file": _path,
        "connect_timeout_s": _seconds,
        "request_timeout_s": _seconds,
        "progress": _flag,
        "mode": _mode,
        "engine": partial(_one_of, ENGINES),
        "placement": _policy,
        "placement_seed": _integer,
        "links": _links,
        "untracked_weights": partial(_one_of, ("hash", "sample")),
        "results": partial(_one_of, ("lazy", "local")),
        "errors": partial(_one_of, ("late", "immediate")),
        "recovery": partial(_one_of, ("replay", "off")),
        "debug_dir": _path,
        "unsupported": partial(_one_of, ("client", "error")),
        "pipeline": partial(_one_of, ("auto", "off")),
        "exact": _yes_or_no,
    }
)
