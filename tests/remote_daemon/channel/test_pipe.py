from __future__ import annotations

import socket

import pytest

from dynamo_genie.errors import DaemonUnavailable, ProtocolError
from dynamo_genie.remote_daemon.channel.pipe import Pipe, make_pipe, open_worker_pipe
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.key_file import ServerKeyPair

CONFIG = WorkerConfig(
    "default",
    "cpu",
    1,
    1 << 33,
    1 << 32,
    "tcp://127.0.0.1:*",
    (7800, 7801),
    ServerKeyPair("a" * 40, "b" * 40),
    "c" * 40,
    1,
)


def test_the_configuration_comes_first_and_messages_after_it() -> None:
    ours, theirs = make_pipe()
    ours.send(CONFIG)
    ours.send(m.Drain())
    pipe, config = open_worker_pipe(theirs.detach())
    assert config == CONFIG
    assert pipe.receive_available() == [m.Drain()]
    pipe.send(m.WorkerFailed("OptionError", "no"))
    assert ours.receive_available() == [m.WorkerFailed("OptionError", "no")]
    ours.close()
    assert pipe.receive_available() == []
    assert pipe.closed
    pipe.close()


def test_last_words_before_the_end_are_heard() -> None:
    ours, theirs = make_pipe()
    pipe = Pipe(theirs, codec.supervisor_to_worker)
    pipe.send(m.WorkerFailed("OptionError", "no"))
    pipe.close()
    assert ours.receive_available() == [m.WorkerFailed("OptionError", "no")]
    assert ours.closed
    ours.close()


def test_an_end_that_does_not_read_never_makes_the_other_one_wait() -> None:
    ours, theirs = make_pipe()
    message = m.DropSession(b"s" * 16, "x" * 4000)
    while not ours.pending:
        ours.send(message)
    received, pipe = 0, Pipe(theirs, codec.supervisor_to_worker)
    while ours.pending:
        received += len(pipe.receive_available())
        ours.flush()
    assert received + len(pipe.receive_available()) > 0
    ours.close()
    pipe.close()


def test_garbage_on_the_link_is_a_protocol_error() -> None:
    for data in (b"\xff\xff\xff\xff", (3).to_bytes(4, "big") + b"\xc1\xc1\xc1"):
        ours, theirs = make_pipe()
        theirs.sendall(data)
        with pytest.raises(ProtocolError):
            ours.receive_available()
        theirs.close()
        ours.close()


def test_a_supervisor_that_sends_nothing_is_not_awaited_forever() -> None:
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(DaemonUnavailable, match="no configuration"):
        open_worker_pipe(theirs.detach(), timeout_s=0.05)


def test_each_ipc_socket_of_a_worker_has_its_own_path() -> None:
    config = WorkerConfig("t", "cpu", 1, 0, 0, "ipc:///tmp/x.1", None, None, "", 1)
    assert config.bind_arguments("c") == ("ipc:///tmp/x.1c", None)
    assert config.bind_arguments("b") == ("ipc:///tmp/x.1b", None)
    assert CONFIG.bind_arguments("b") == ("tcp://127.0.0.1:*", (7800, 7801))
