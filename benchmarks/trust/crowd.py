"""A client process with many sessions: it opens them, computes in each and ends them, as it is told on its input.

`python -m dynamo_genie.bench.trust.crowd ENDPOINT KEY_FILE FIRST COUNT` does what each line says (a method of `Guests`)
and answers with a line when it is done. Numbers from FIRST on tell its sessions from those of other clients.
"""

from __future__ import annotations

import sys

import torch
import zmq

from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.channel.connection_limits import raise_descriptor_limit
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.key_file import ClientKeys

LIMIT_S = 120.0
ELEMENTS = 256
MAX_SOCKETS = 32_768
"""A process has one session with a daemon, ordinarily; ZeroMQ's own limit is that of some hundred."""

ADD_ONE = p.encode_program(
    p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.add.Scalar", (p.Ref(0), 1)),), (p.Ref(1),))
)


class Guest:
    """One session, and a tensor that it keeps in the daemon, different from that of all others."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: ClientKeys, number: int) -> None:
        self._session: Session = open_session(
            context,
            endpoint,
            keys=keys,
            connect_timeout_s=LIMIT_S,
            request_timeout_s=LIMIT_S,
            find_again=lambda: endpoint,
        )
        self._expected = float(number)
        self._kept: Handle | None = None

    def call(self) -> None:
        """Add one to what is kept, read it and keep it.

        Raises:
            GenieError: It is not what it should be.
        """
        session = self._session
        kept = self._kept or session.put(torch.full((ELEMENTS,), self._expected))
        program = session.register(p.program_digest(ADD_ONE), ADD_ONE, ())
        self._kept = session.new_handle()
        session.post(m.Call(program, 0, (kept.id,), (self._kept.id,)))
        (found,) = session.fetch([self._kept.id], ["output"])
        self._expected += 1
        if found.tolist() != [self._expected] * ELEMENTS:
            raise GenieError(f"a session read {found[:4].tolist()}... instead of {self._expected}")

    def close(self) -> None:
        """End the session."""
        self._session.close()


class Guests:
    """The sessions of this process."""

    def __init__(self, endpoint: str, key_file: str, first: int, count: int) -> None:
        self._endpoint = endpoint
        self._keys = load_client_keys(key_file)
        self._numbers = range(first, first + count)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._guests: list[Guest] = []

    def open(self) -> None:
        """Open all sessions, one after the other."""
        self._guests = [Guest(self._context, self._endpoint, self._keys, number) for number in self._numbers]

    def call(self) -> None:
        """Let each make a call and read its value."""
        for guest in self._guests:
            guest.call()

    def close(self) -> None:
        """End all of them."""
        while self._guests:
            self._guests.pop().close()


def main() -> None:
    """Do what is asked until there is no more input."""
    endpoint, key_file, first, count = sys.argv[1:]
    raise_descriptor_limit()
    torch.set_num_threads(1)
    guests = Guests(endpoint, key_file, int(first), int(count))
    orders = {"open": guests.open, "call": guests.call, "close": guests.close}
    print("ready", flush=True)  # the other side reads it
    for line in sys.stdin:
        orders[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    main()
