"""The daemon as processes: what survives when something dies, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zmq

import dynamo_genie
from dynamo_genie.errors import AuthenticationError, GenieError
from dynamo_genie.remote_daemon.channel import auth
from dynamo_genie.remote_daemon.supervisor.config import SupervisorConfig
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys, load_server_keys
from dynamo_genie.remote_daemon.supervisor.supervisor import Supervisor
from dynamo_genie.runtime.connect.admission import Admission, request_status
from dynamo_genie.runtime.connect.dealer import connect_dealer
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import keys_for_worker
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.key_file import ClientKeys
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES
from tests.remote_daemon.fixtures import LIMIT_S, DaemonProcess, eventually, is_running, left_behind

Start = Callable[..., DaemonProcess]


def admit(endpoint: str, keys: ClientKeys | None = None) -> tuple[Admission, list[Exception]]:
    lost: list[Exception] = []
    return Admission.open(endpoint, keys=keys, connect_timeout_s=LIMIT_S, on_lost=lost.append), lost


def attach(admission: Admission, keys: ClientKeys | None = None) -> m.WorkerToClient:
    """Open the session at its worker, as a client does."""
    welcome = admission.welcome
    keys = keys_for_worker(keys, welcome)
    with zmq.Context() as context:
        dealer = connect_dealer(context, welcome.control, keys=keys, max_frame_nbytes=MAX_CONTROL_NBYTES)
        dealer.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        dealer.send(codec.encode(m.Attach(1, welcome.session, welcome.token)))
        reply = codec.worker_to_client(dealer.recv())
        dealer.close(linger=0)
        return reply


def test_a_client_gets_from_the_endpoint_to_its_worker(start_daemon: Start) -> None:
    endpoint = start_daemon().wait_ready()
    admission, lost = admit(endpoint)
    with admission:
        assert attach(admission) == m.Attached(1)
    assert eventually(lambda: not request_status(endpoint, None, LIMIT_S).workers[0].sessions)
    assert lost == []


def test_over_ipc_everything_is_a_private_file_and_gone_at_the_end(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon(listen=f"ipc://{tmp_path}/genie")
    admission, _ = admit(daemon.wait_ready())
    with admission:
        assert attach(admission) == m.Attached(1)
        assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in tmp_path.iterdir())
    daemon.process.terminate()
    assert daemon.wait_exit()[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_the_supervisor_maps_no_torch(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.wait_ready()
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "libc.so" in maps, "these are no maps of a process"
    assert "libtorch" not in maps
    assert "/site-packages/torch/" not in maps


def test_a_killed_worker_ends_its_sessions_and_a_new_one_serves(start_daemon: Start) -> None:
    daemon = start_daemon()
    endpoint = daemon.wait_ready()
    admission, lost = admit(endpoint)
    (worker,) = daemon.workers()
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: lost)
    assert "SIGKILL" in str(lost[0])
    admission.close()
    again, _ = admit(endpoint)
    with again:
        assert daemon.workers() != [worker]
        assert attach(again) == m.Attached(1)


def test_workers_die_with_a_supervisor_that_is_killed(start_daemon: Start) -> None:
    daemon = start_daemon()
    daemon.wait_ready()
    (worker,) = daemon.workers()
    daemon.process.kill()
    assert eventually(lambda: not is_running(worker))


@pytest.mark.parametrize("behaviour", ["", "waits:/nonexistent"])
def test_the_supervisor_and_its_workers_die_with_the_parent(start_daemon: Start, behaviour: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        daemon = start_daemon(behaviour, parent=str(parent.pid))
        if not behaviour:
            daemon.wait_ready()
        assert eventually(daemon.workers)
        workers = daemon.workers()
        parent.kill()
        assert daemon.wait_exit()[0] == 0
        assert not any(is_running(worker) for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_tells_the_clients_and_exits_0(start_daemon: Start, number: signal.Signals) -> None:
    daemon = start_daemon()
    admission, lost = admit(daemon.wait_ready())
    workers = daemon.workers()
    daemon.process.send_signal(number)
    code, rest, _ = daemon.wait_exit()
    assert (code, rest) == (0, "")  # one line on stdout, ever
    assert eventually(lambda: lost)
    assert "shut down" in str(lost[0])
    assert not any(is_running(worker) for worker in workers)
    admission.close()


def test_a_worker_that_ignores_the_drain_is_killed_in_time(start_daemon: Start) -> None:
    daemon = start_daemon(drain_s="0.3")
    daemon.wait_ready()
    (worker,) = daemon.workers()
    os.kill(worker, signal.SIGSTOP)
    daemon.process.terminate()
    assert daemon.wait_exit()[0] == 0
    assert not is_running(worker)


def test_a_client_that_falls_silent_loses_its_session(start_daemon: Start) -> None:
    endpoint = start_daemon(lease_s="0.6").wait_ready()
    code = f"""if True:
        from dynamo_genie.runtime.connect.admission import Admission
        admission = Admission.open({endpoint!r}, keys=None, connect_timeout_s=30, on_lost=print)
        print("in", flush=True)
        input()"""
    client = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"in\n"
    assert len(request_status(endpoint, None, LIMIT_S).workers[0].sessions) == 1
    client.kill()
    client.communicate()
    assert eventually(lambda: not request_status(endpoint, None, LIMIT_S).workers[0].sessions)


def test_heartbeats_keep_a_lease_beyond_its_length(start_daemon: Start) -> None:
    endpoint = start_daemon(lease_s="0.6").wait_ready()
    admission, lost = admit(endpoint)
    with admission:
        eventually(lambda: lost, limit_s=1.5)
        assert lost == []
        assert len(request_status(endpoint, None, LIMIT_S).workers[0].sessions) == 1


def test_a_worker_that_cannot_start_ends_the_daemon_with_its_reason(start_daemon: Start) -> None:
    code, out, err = start_daemon("fails").wait_exit()
    assert (code, out) == (1, "")
    assert "no device 'cuda:7' here" in err


def test_a_worker_that_crashes_while_starting_ends_the_daemon(start_daemon: Start) -> None:
    code, _, err = start_daemon("crashes").wait_exit()
    assert code == 1
    assert "exit code 3" in err


def test_a_worker_that_never_answers_does_not_hold_the_status_up(start_daemon: Start) -> None:
    endpoint = start_daemon("mute").wait_ready()
    assert request_status(endpoint, None, LIMIT_S).workers[0].state == "busy"


def test_garbage_on_the_public_endpoint_leaves_it_serving(start_daemon: Start) -> None:
    endpoint = start_daemon().wait_ready()
    address = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    for nbytes in (1, 64, 4096, 1 << 20):
        # cut off early: as it should be
        with contextlib.suppress(ConnectionError), socket.create_connection(address, timeout=LIMIT_S) as peer:
            peer.sendall(secrets.token_bytes(nbytes))
    with zmq.Context() as context:
        dealer = connect_dealer(context, endpoint, keys=None, max_frame_nbytes=1 << 30)
        for frames in ([b""], [b"\xc1"], [b"\x91" * 100_000], [b"a", b"b", b"c"], [codec.encode(m.Drain())]):
            dealer.send_multipart(frames)
            refused = codec.supervisor_to_client(dealer.recv())
            assert isinstance(refused, m.Refused)
            assert refused.code == "ProtocolError"
        dealer.send(b"x" * (MAX_CONTROL_NBYTES + 1))
        dealer.close(linger=1000)
    admission, _ = admit(endpoint)
    admission.close()


def test_with_keys_each_tenant_has_a_worker_and_sees_only_that(start_daemon: Start, tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    alice, bob = (load_client_keys(create_client_keys(server, name)) for name in ("alice", "bob"))
    daemon = start_daemon(listen="tcp://0.0.0.0:*", keys=str(tmp_path))
    endpoint = daemon.wait_ready().replace("0.0.0.0", "127.0.0.1")
    assert daemon.workers() == []
    (hers, hers_lost), (his, his_lost) = admit(endpoint, alice), admit(endpoint, bob)
    with hers, his:
        assert len(daemon.workers()) == 2
        assert hers.welcome.control != his.welcome.control
        assert len({server.pair.public, hers.welcome.worker_key, his.welcome.worker_key}) == 3
        assert attach(hers, alice) == m.Attached(1)
        status = request_status(endpoint, alice, LIMIT_S)
        assert [worker.tenant for worker in status.workers] == [f"alice:{alice.public[:8]}"]
        os.kill(status.workers[0].pid, signal.SIGKILL)
        assert eventually(lambda: hers_lost)
        again, _ = admit(endpoint, alice)
        with again:
            assert again.welcome.worker_key not in (hers.welcome.worker_key, his.welcome.worker_key)
            assert attach(again, alice) == m.Attached(1)
        assert attach(his, bob) == m.Attached(1)
        assert his_lost == []


def test_a_worker_admits_the_key_of_its_own_tenant_only(start_daemon: Start, tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    alice, bob = (load_client_keys(create_client_keys(server, name)) for name in ("alice", "bob"))
    endpoint = start_daemon(keys=str(tmp_path)).wait_ready()
    admission, _ = admit(endpoint, alice)
    keys = keys_for_worker(bob, admission.welcome)
    with admission, zmq.Context() as context:
        stranger = connect_dealer(
            context, admission.welcome.control, keys=keys, max_frame_nbytes=MAX_CONTROL_NBYTES, timeout_ms=700
        )
        stranger.send(codec.encode(m.Attach(1, admission.welcome.session, admission.welcome.token)))
        with pytest.raises(zmq.Again):
            stranger.recv()
        stranger.close(linger=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_serving_stops_when_the_authenticator_dies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = create_server_keys(tmp_path)
    alice = load_client_keys(create_client_keys(server, "alice"))
    monkeypatch.setattr(auth, "verdict", lambda *_: 1 / 0)
    config = SupervisorConfig("tcp://127.0.0.1:*", keys=load_server_keys(tmp_path))
    with closing(Supervisor(config, announce=print)) as supervisor, zmq.Context() as context:
        dealer = connect_dealer(context, supervisor.endpoint, keys=alice, max_frame_nbytes=MAX_CONTROL_NBYTES)
        assert supervisor.run() == 1
        dealer.close(linger=0)
    assert "the authenticator died" in caplog.text


def test_a_revoked_key_ends_its_sessions_and_no_others(start_daemon: Start, tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    alice, bob = (load_client_keys(create_client_keys(server, name)) for name in ("alice", "bob"))
    daemon = start_daemon(keys=str(tmp_path))
    endpoint = daemon.wait_ready()
    (hers, hers_lost), (his, his_lost) = admit(endpoint, alice), admit(endpoint, bob)
    with hers, his:
        (tmp_path / "clients" / "alice.pub").unlink()
        assert eventually(lambda: bool(hers_lost))
        assert isinstance(hers_lost[0], AuthenticationError)
        assert "was taken out of the daemon's folder of clients" in str(hers_lost[0])
        assert eventually(lambda: len(daemon.workers()) == 1)
        with pytest.raises(GenieError):
            request_status(endpoint, alice, 1.0)
        assert attach(his, bob) == m.Attached(1)
        create_client_keys(server, "carol")
        carol = load_client_keys(tmp_path / "carol.key")
        assert request_status(endpoint, carol, LIMIT_S).workers == ()
        assert his_lost == []


def test_a_folder_of_clients_that_is_gone_locks_nobody_out(start_daemon: Start, tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    alice = load_client_keys(create_client_keys(server, "alice"))
    daemon = start_daemon(keys=str(tmp_path))
    endpoint = daemon.wait_ready()
    (tmp_path / "clients").rename(tmp_path / "elsewhere")
    for _ in range(2):
        assert request_status(endpoint, alice, LIMIT_S).workers == ()
    daemon.process.terminate()
    code, _, log = daemon.wait_exit()
    assert code == 0
    assert log.count("No such file or directory; those admitted before stay so") == 1


def test_two_daemons_cannot_share_an_endpoint(start_daemon: Start) -> None:
    endpoint = start_daemon().wait_ready()
    code, _, err = start_daemon(listen=endpoint).wait_exit()
    assert code != 0
    assert f"cannot listen on {endpoint}" in err


def test_no_worker_outlives_any_test() -> None:
    dynamo_genie.shutdown()  # the embedded daemon that other tests of this process use
    assert left_behind() == []
