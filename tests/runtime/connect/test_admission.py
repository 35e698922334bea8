"""Getting in and staying in, against a daemon that this test plays on a real socket."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import zmq

from dynamo_genie.errors import (
    AuthenticationError,
    DaemonUnavailable,
    GenieError,
    OptionError,
    ProtocolError,
    QuotaExceeded,
    RemoteError,
    SessionLost,
    VersionMismatch,
)
from dynamo_genie.remote_daemon.channel.auth import Authenticator
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.admission import Admission, request_status
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import keys_for_worker
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

LIMIT_S = 30.0
SESSION = b"s" * 16
DEVICE = m.DeviceInfo("cpu", "cpu", 1, "2.13")
WELCOME = m.Welcome(0, 1, SESSION, b"t" * 32, "tcp://0.0.0.0:1111", "tcp://0.0.0.0:2222", DEVICE, 0.05, 9.0)

Answer = Callable[[m.ClientToSupervisor], m.SupervisorToClient | None]


class PlayedDaemon:
    """Answers each message as `answer` says; `heard` holds what was received."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._router, self.endpoint = bind_router(
            self._context, "tcp://127.0.0.1:*", max_frame_nbytes=1 << 20, curve=None
        )
        self.answer: Answer = self.welcome
        self.heard: list[m.ClientToSupervisor] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def welcome(self, message: m.ClientToSupervisor) -> m.SupervisorToClient | None:
        match message:
            case m.Hello(request_id):
                return msgspec.structs.replace(WELCOME, request_id=request_id)
            case m.Heartbeat(request_id):
                return m.HeartbeatReply(request_id)
        return None

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._router.poll(20):
                peer, data = self._router.recv_multipart()
                message = codec.client_to_supervisor(data)
                self.heard.append(message)
                reply = self.answer(message)
                if reply is not None:
                    with contextlib.suppress(zmq.ZMQError):  # the client may have left by now
                        self._router.send_multipart([peer, codec.encode(reply)])

    def heard_a(self, kind: type[m.ClientToSupervisor], times: int = 1) -> bool:
        waited = threading.Event()
        for _ in range(int(LIMIT_S * 50)):
            if sum(isinstance(message, kind) for message in self.heard) >= times:
                return True
            waited.wait(0.02)
        return False

    def close(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)
        self._context.destroy(linger=0)


@pytest.fixture
def daemon() -> Iterator[PlayedDaemon]:
    daemon = PlayedDaemon()
    yield daemon
    daemon.close()


class Lost:
    """Collects what `on_lost` is told."""

    def __init__(self) -> None:
        self.errors: list[GenieError] = []
        self._happened = threading.Event()

    def __call__(self, error: GenieError) -> None:
        self.errors.append(error)
        self._happened.set()

    def wait(self) -> GenieError:
        assert self._happened.wait(LIMIT_S)
        return self.errors[0]


def enter(endpoint: str, lost: Callable[[GenieError], None] = print, timeout_s: float = LIMIT_S) -> Admission:
    return Admission.open(endpoint, keys=None, connect_timeout_s=timeout_s, on_lost=lost)


def test_a_client_is_let_in_beats_and_says_goodbye(daemon: PlayedDaemon) -> None:
    lost = Lost()
    with enter(daemon.endpoint, lost):
        assert daemon.heard_a(m.Heartbeat, times=3)
    assert daemon.heard_a(m.Goodbye)
    assert daemon.heard[-1] == m.Goodbye(SESSION)
    assert lost.errors == []


def test_the_worker_is_reached_on_the_host_that_was_dialled(daemon: PlayedDaemon) -> None:
    with enter(daemon.endpoint.replace("127.0.0.1", "localhost")) as admission:
        assert admission.welcome.control == "tcp://localhost:1111"
        assert admission.welcome.bulk == "tcp://localhost:2222"


def test_nobody_there_is_said_with_endpoint_limit_and_remedy() -> None:
    with pytest.raises(DaemonUnavailable) as caught:
        enter("tcp://127.0.0.1:1", timeout_s=0.2)
    assert str(caught.value) == (
        'no daemon answered at tcp://127.0.0.1:1 within 0.2 s; is "genie daemon" running there? '
        "(connect_timeout_s, GENIE_CONNECT_TIMEOUT_S)"
    )


def test_a_daemon_that_is_there_but_silent_is_told_from_none(daemon: PlayedDaemon) -> None:
    daemon.answer = lambda message: None
    with pytest.raises(DaemonUnavailable, match=r"did not answer within 0\.3 s"):
        enter(daemon.endpoint, timeout_s=0.3)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("VersionMismatch", VersionMismatch),
        ("AuthenticationError", AuthenticationError),
        ("QuotaExceeded", QuotaExceeded),
        ("OptionError", OptionError),
        ("DaemonUnavailable", DaemonUnavailable),
        ("SystemExit", RemoteError),
        ("os.system", RemoteError),
    ],
)
def test_a_refusal_becomes_the_error_it_names_if_that_is_one_of_ours(
    daemon: PlayedDaemon, code: str, expected: type[GenieError]
) -> None:
    daemon.answer = lambda message: m.Refused(1, code, "because")
    with pytest.raises(expected, match="because") as caught:
        enter(daemon.endpoint)
    assert type(caught.value) is expected


def test_an_ended_session_is_told_once_with_the_reason(daemon: PlayedDaemon) -> None:
    lost = Lost()
    with enter(daemon.endpoint, lost):
        daemon.answer = lambda message: m.SessionEnded(SESSION, "SessionLost", "killed by SIGSEGV")
        error = lost.wait()
    assert type(error) is SessionLost
    assert "SIGSEGV" in str(error)
    assert len(lost.errors) == 1


def test_the_end_of_another_session_is_not_ours(daemon: PlayedDaemon) -> None:
    lost = Lost()
    with enter(daemon.endpoint, lost):
        daemon.answer = lambda message: m.SessionEnded(b"o" * 16, "SessionLost", "not yours")
        beats = sum(isinstance(message, m.Heartbeat) for message in daemon.heard)
        assert daemon.heard_a(m.Heartbeat, times=beats + 3)
    assert lost.errors == []


def test_a_daemon_that_falls_silent_is_unavailable(daemon: PlayedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamo_genie.runtime.connect.lease_keeper.GONE_S", 0.2)
    lost = Lost()
    with enter(daemon.endpoint, lost):
        daemon.answer = lambda message: None
        error = lost.wait()
    assert type(error) is DaemonUnavailable
    assert "has not answered" in str(error)


@pytest.mark.parametrize("stands_still", [True, False])
def test_only_who_cuts_off_refuses_and_not_who_stands_still(
    monkeypatch: pytest.MonkeyPatch, stands_still: bool
) -> None:
    monkeypatch.setattr("dynamo_genie.runtime.connect.handshake.PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()

        def cut_off() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        if not stands_still:  # else the kernel accepts, and nobody says anything
            threading.Thread(target=cut_off, daemon=True).start()
        with pytest.raises(GenieError) as raised:
            request_status(f"tcp://{host}:{port}", None, 3.0)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
    assert raised.type is (DaemonUnavailable if stands_still else AuthenticationError)


def test_a_daemon_that_talks_nonsense_is_a_protocol_error(daemon: PlayedDaemon) -> None:
    lost = Lost()
    with enter(daemon.endpoint, lost):
        daemon.answer = lambda message: m.Drain()  # type: ignore[return-value]
        assert type(lost.wait()) is ProtocolError


def test_closing_from_within_on_lost_is_fine(daemon: PlayedDaemon) -> None:
    done, holder = threading.Event(), []

    def close(error: GenieError) -> None:
        holder[0].close()
        done.set()

    holder.append(enter(daemon.endpoint, close))
    daemon.answer = lambda message: m.SessionEnded(SESSION, "SessionLost", "gone")
    assert done.wait(LIMIT_S)
    holder[0].close()


def test_a_forgotten_admission_says_goodbye(daemon: PlayedDaemon) -> None:
    admission = enter(daemon.endpoint)
    del admission
    gc.collect()
    assert daemon.heard_a(m.Goodbye)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_session_of_its_parent_alone(daemon: PlayedDaemon) -> None:
    admission = enter(daemon.endpoint)
    child = os.fork()
    if child == 0:
        try:
            admission.close()
            del admission
            gc.collect()
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    beats = sum(isinstance(message, m.Heartbeat) for message in daemon.heard)
    assert daemon.heard_a(m.Heartbeat, times=beats + 2)
    assert not any(isinstance(message, m.Goodbye) for message in daemon.heard)
    admission.close()
    assert daemon.heard_a(m.Goodbye)


def test_status_needs_no_session(daemon: PlayedDaemon) -> None:
    status = m.DaemonStatus("tcp://x:1", 1, 2.0, 1, False, ())
    daemon.answer = lambda message: m.StatusReply(message.request_id, status)  # type: ignore[union-attr]
    assert request_status(daemon.endpoint, None, LIMIT_S) == status
    assert [type(message) for message in daemon.heard] == [m.StatusRequest]


@pytest.mark.parametrize("who", ["stranger", "no key", "wrong daemon"])
def test_a_refused_key_is_told_from_nobody_there(tmp_path: Path, who: str) -> None:
    server, other = (create_server_keys(tmp_path / name) for name in ("server", "other"))
    create_client_keys(server, "alice")
    stranger = load_client_keys(create_client_keys(other, "mallory"))
    keys = {
        "stranger": msgspec.structs.replace(stranger, server_public=server.pair.public),
        "no key": None,
        "wrong daemon": stranger,
    }[who]
    context = zmq.Context()
    with closing(Authenticator(context, server.clients)):
        _, endpoint = bind_router(context, "tcp://127.0.0.1:*", max_frame_nbytes=1 << 20, curve=server.pair)
        with pytest.raises(AuthenticationError, match="GENIE_KEY_FILE"):
            Admission.open(endpoint, keys=keys, connect_timeout_s=LIMIT_S, on_lost=print)
    context.destroy(linger=0)


def test_a_key_for_a_daemon_without_keys_is_refused_too(daemon: PlayedDaemon, tmp_path: Path) -> None:
    keys = load_client_keys(create_client_keys(create_server_keys(tmp_path), "alice"))
    with pytest.raises(AuthenticationError, match="or none"):
        Admission.open(daemon.endpoint, keys=keys, connect_timeout_s=LIMIT_S, on_lost=print)


def test_a_worker_without_a_key_is_no_place_to_go_with_one(tmp_path: Path) -> None:
    keys = load_client_keys(create_client_keys(create_server_keys(tmp_path), "alice"))
    assert keys_for_worker(None, WELCOME) is None
    with pytest.raises(ProtocolError, match="no key for its worker"):
        keys_for_worker(keys, WELCOME)
    worker = create_server_keys(tmp_path / "worker").pair.public
    there = keys_for_worker(keys, msgspec.structs.replace(WELCOME, worker_key=worker))
    assert there is not None
    assert (there.secret, there.server_public) == (keys.secret, worker)
