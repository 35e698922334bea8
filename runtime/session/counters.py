"""What crossed the wire, by tensor class. Counted where frames are handed to the sockets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dynamo_genie.runtime.wire.tensor_class import COUNTED

EVENTS = ("calls", "eager_calls", "fetches", "round_trips", "local_reads", "brought_here", "reconnects", "recoveries")


@dataclass
class Counters:
    """Bytes sent and received by tensor class, and how often the program had to wait.

    `control` is everything that is not a tensor's bytes: headers, ids, shapes, programs. ZeroMQ's framing of these
    messages is counted apart, as `sent_framing` and `received_framing`, the latter with acknowledgements; what CURVE
    adds with keys is not counted, nor is the framing of the network below.
    """

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    sent_framing: int = 0
    received_framing: int = 0

    def snapshot(self) -> dict[str, object]:
        """Return plain dicts, every class present."""
        return {
            "sent": {name: self.sent[name] for name in COUNTED},
            "received": {name: self.received[name] for name in COUNTED},
            "sent_total": sum(self.sent.values()),
            "received_total": sum(self.received.values()),
            "sent_framing": self.sent_framing,
            "received_framing": self.received_framing,
            **{name: self.events[name] for name in EVENTS},
        }

    def reset(self) -> None:
        """Start again from zero."""
        self.sent.clear()
        self.received.clear()
        self.events.clear()
        self.sent_framing = self.received_framing = 0


def framing(nbytes: int) -> int:
    """Return what ZMTP 3 puts before a frame: flags, and its size in one byte or in eight."""
    return 2 if nbytes <= 255 else 9
