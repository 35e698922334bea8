"""What a network should be like, as text (`10gbit,0.1ms`, `1gbit`, `5ms,1%`, `loopback`), and what came of it."""

from __future__ import annotations

import re
from types import MappingProxyType

import msgspec

from dynamo_genie.errors import OptionError

LOOPBACK = "loopback"
_UNITS = MappingProxyType({"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "%": 1e-2})
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z%]+)", re.IGNORECASE)


class NetworkShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network, both directions of a link alike: what was asked for and what was obtained.

    Attributes:
        name: As on the command line, such as "10gbit,0.1ms", or "loopback".
        rate_bits_s: Rate asked for, in bits a second; None for no limit.
        delay_s: Delay asked for, one way: a round trip takes twice as long, as with `tc netem`; None for none.
        loss: Share of packets to be lost, 0 to 1, each way.
        obtained_rate_bits_s: Rate of one TCP stream of bulk data as measured, from client to daemon.
        obtained_round_trip_s: Median round trip of 64 bytes as measured.
        note: What a reader must know, such as that nothing was shaped and why.
    """

    name: str
    rate_bits_s: float | None = None
    delay_s: float | None = None
    loss: float = 0.0
    obtained_rate_bits_s: float | None = None
    obtained_round_trip_s: float | None = None
    note: str = ""

    @property
    def shaped(self) -> bool:
        """False for the loopback interface, where there is no link."""
        return self.name != LOOPBACK


def parse_network(text: str) -> NetworkShape:
    """Read a network from text.

    Raises:
        OptionError: It is none; the message says the form.
    """
    name = text.strip().lower().replace(" ", "")
    if name == LOOPBACK:
        return NetworkShape(name, delay_s=0.0)
    found: dict[str, float] = {}
    for part in name.split(","):
        field, value = _read(part, text)
        if field in found:
            raise _bad(text)
        found[field] = value
    if found.get("loss", 0.0) >= 1 or found.get("rate_bits_s", 1.0) <= 0:
        raise _bad(text)
    return NetworkShape(name, found.get("rate_bits_s"), found.get("delay_s", 0.0), found.get("loss", 0.0))


def _read(part: str, text: str) -> tuple[str, float]:
    match = _PART.fullmatch(part)
    if match is None or match[2] not in _UNITS:
        raise _bad(text)
    unit = match[2]
    field = "rate_bits_s" if unit.endswith("bit") else "loss" if unit == "%" else "delay_s"
    return field, float(match[1]) * _UNITS[unit]


def _bad(text: str) -> OptionError:
    return OptionError(
        f"--network {text!r}: write RATE,DELAY,LOSS, each at most once, such as 10gbit,0.1ms or 1gbit,5ms,0.5% "
        "(the delay is one way), or loopback"
    )
