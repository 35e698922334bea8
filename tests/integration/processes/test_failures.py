"""What goes wrong has a name, comes within the limit that was set, and leaves the program able to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.errors import (
    AuthenticationError,
    DaemonUnavailable,
    GenieError,
    OptionError,
    QuotaExceeded,
    RequestTimeout,
    SessionLost,
    StaleHandleError,
    UnsupportedOperator,
    VersionMismatch,
)
from dynamo_genie.runtime.connect import admission
from dynamo_genie.runtime.session.failures import RemoteOutOfMemory
from dynamo_genie.runtime.writes.write_tracking import KernelWriteTracker
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, RealDaemon, environment, eventually, run_python

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

MIB = 1 << 20
PROMPTLY_S = 30.0
"""Far below the request timeout (600 s) and far above what noticing takes, so that a busy machine fails nothing."""


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    yield
    dynamo_genie.shutdown()


@pytest.fixture
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RealDaemon]:
    """For tests that leave it as it was: a worker takes seconds to start."""
    with RealDaemon(memory_limit="64MiB") as daemon:
        yield daemon


def compile_for(daemon: RealDaemon | str, target: Any, **options: object) -> Any:
    endpoint = daemon if isinstance(daemon, str) else daemon.endpoint
    return torch.compile(target, backend=genie, options={"daemons": [endpoint], **options})


class Outcome:
    """A call that runs in a thread, so that a test can act in the middle of it and nothing hangs the test."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.value: Any = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with torch.no_grad():
                self.value = self._call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, `wait` hands it to the test
            self.error = error

    def wait(self, limit_s: float = PROMPTLY_S) -> BaseException | None:
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), f"nothing came back within {limit_s} s"
        return self.error


def root(error: BaseException | None) -> BaseException | None:
    """The project's own error behind Dynamo's wrapping of those that come up while compiling."""
    return getattr(error, "inner_exception", None) or error


def heavy(x: Tensor) -> Tensor:
    """Minutes of real work, without an end that a test would wait for."""
    for _ in range(60):
        x = torch.linalg.matrix_exp(x) * 1e-3
    return x


def start_heavy(daemon: RealDaemon, **options: object) -> Outcome:
    """Compile, then run a call that computes for long; returns once the worker is at it."""
    call = compile_for(daemon, heavy, **options)
    with torch.no_grad():
        call(torch.ones(2, 2)).sum().item()
    big = torch.randn(2_500, 2_500)
    before = cpu_seconds(daemon.worker())
    outcome = Outcome(lambda: call(big).sum().item())
    assert eventually(lambda: cpu_seconds(daemon.worker()) > before + 1.0), "the worker does not compute"
    assert outcome.error is None
    return outcome


def watched_weights() -> int:
    """Return how many pieces of memory this process looks at before each call."""
    tracker: Any = CONNECTIONS._tracker
    return len(tracker._watches if isinstance(tracker, KernelWriteTracker) else tracker._prints)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- nobody there, or somebody who says no ---------------------------------------------------------------


def test_no_daemon_is_daemon_unavailable_and_names_the_endpoint() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        call = compile_for(endpoint, torch.sin, connect_timeout_s=1)
        error = root(Outcome(lambda: call(torch.ones(2))).wait())
    assert isinstance(error, DaemonUnavailable)
    assert endpoint in str(error)
    assert "within 1 s" in str(error)
    assert "GENIE_CONNECT_TIMEOUT_S" in str(error)


def test_unknown_option_is_option_error_and_names_the_known_ones() -> None:
    call = torch.compile(torch.sin, backend=genie, options={"endpont": "x"})
    error = root(Outcome(lambda: call(torch.ones(2))).wait())
    assert isinstance(error, OptionError)
    assert "'endpont'" in str(error)
    assert "daemons" in str(error)


def test_no_common_protocol_version_is_version_mismatch(
    shared_daemon: RealDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PROTOCOLS", (99,))
    with pytest.raises(VersionMismatch, match="99"):
        dynamo_genie.connect(shared_daemon.endpoint, connect_timeout_s=20)


def test_no_key_and_a_wrong_key_are_authentication_errors(tmp_path: Path) -> None:
    run_python("from dynamo_genie.cli.__main__ import main; main()", "keygen", str(tmp_path / "ours"))
    run_python("from dynamo_genie.cli.__main__ import main; main()", "keygen", str(tmp_path / "theirs"))
    key_files = {name: client_key_file(tmp_path / name) for name in ("ours", "theirs")}
    with RealDaemon(keys=tmp_path / "ours") as daemon:
        for options in ({}, {"key_file": str(key_files["theirs"])}):
            with pytest.raises(AuthenticationError, match="GENIE_KEY_FILE"):
                dynamo_genie.connect(daemon.endpoint, connect_timeout_s=20, **options)
        call = compile_for(daemon, torch.sin, key_file=str(key_files["ours"]), connect_timeout_s=LIMIT_S)
        assert call(torch.ones(2)).tolist() == torch.ones(2).sin().tolist()


def client_key_file(directory: Path) -> Path:
    (found,) = [path for path in directory.rglob("*") if path.is_file() and b"genie-client-key" in path.read_bytes()]
    return found


# --- what eager raises too -------------------------------------------------------------------------------


def test_index_out_of_range_names_the_operator_and_the_clients_line(shared_daemon: RealDaemon) -> None:
    table = nn.Embedding(4, 2)

    def look_up(ids: Tensor) -> Tensor:
        return table(ids)  # the line to name

    call = compile_for(shared_daemon, look_up)
    with torch.no_grad():
        call(torch.tensor([1])).sum().item()
        with pytest.raises(IndexError, match=r"aten\.embedding") as caught:
            call(torch.tensor([9])).sum().item()
        assert "test_failures.py" in str(caught.value)
        assert "the line to name" in str(caught.value)
        assert "remote traceback" in str(caught.value)
        assert call(torch.tensor([2])).sum().item() == table.weight[2].sum().item()


def test_eager_operator_that_fails_remotely_raises_what_eager_raises(shared_daemon: RealDaemon) -> None:
    result = compile_for(shared_daemon, torch.sin)(torch.ones(3, 3))
    with pytest.raises(RuntimeError, match="singular"):
        torch.linalg.inv(result).sum().item()
    assert result.sum().item() == torch.ones(3, 3).sin().sum().item()


def test_unsupported_operator_is_named_with_the_clients_line(shared_daemon: RealDaemon) -> None:
    @torch.library.custom_op("genie_test::mine", mutates_args=())
    def mine(x: Tensor) -> Tensor:
        return x + 1

    @mine.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    def use(x: Tensor) -> Tensor:
        return torch.ops.genie_test.mine(x)  # the line to name

    with pytest.raises(Exception, match="genie_test") as caught:
        compile_for(shared_daemon, use, unsupported="error")(torch.ones(2))
    error = root(caught.value)
    assert isinstance(error, UnsupportedOperator)
    assert "test_failures.py" in str(error)


# --- processes that die or stop --------------------------------------------------------------------------


def test_killed_worker_is_session_lost_and_the_next_call_works(daemon: RealDaemon) -> None:
    model = nn.Linear(512, 512, bias=False).requires_grad_(False)
    x = torch.randn(1, 512)
    call = compile_for(daemon, model, recovery="off")
    kept = call(x)
    running = start_heavy(daemon, recovery="off")
    watched = watched_weights()
    os.kill(daemon.worker(), signal.SIGKILL)
    error = running.wait()
    assert isinstance(error, SessionLost), error
    assert "SIGKILL" in str(error)
    with pytest.raises(StaleHandleError, match=r"session at tcp://.* ended: .*SIGKILL.*; compute it again"):
        kept.sum().item()
    again = call(x)
    assert torch.equal(again + 0, model(x))
    sent = dynamo_genie.stats()["total"]["sent"]
    assert sent["weight"] >= 512 * 512 * 4
    assert watched_weights() == watched == 1, "the lost session's weights are watched still"
    with pytest.raises(StaleHandleError, match="SIGKILL"):
        kept.sum().item()
    with pytest.raises(StaleHandleError, match="SIGKILL"):
        (kept + again).sum().item()


def test_a_tensor_kept_across_a_restart_says_so_and_the_next_call_works(daemon: RealDaemon) -> None:
    call = compile_for(daemon, torch.sin, recovery="off")
    kept = call(torch.ones(2))
    kept.sum().item()
    daemon.restart()
    assert eventually(lambda: not CONNECTIONS.all()[-1].alive)
    for use in (lambda: kept.tolist(), lambda: (kept + 1).tolist(), lambda: kept.sum().item(), lambda: call(kept)):
        with pytest.raises(StaleHandleError, match=r"restarted, or .*; compute it again"):
            use()
    assert call(torch.ones(2)).tolist() == torch.ones(2).sin().tolist()


def test_killed_daemon_is_daemon_unavailable(daemon: RealDaemon) -> None:
    running = start_heavy(daemon, connect_timeout_s=5)
    daemon.process.kill()
    assert isinstance(running.wait(), DaemonUnavailable)
    again = compile_for(daemon, torch.cos, connect_timeout_s=1)
    assert isinstance(root(Outcome(lambda: again(torch.ones(2))).wait()), DaemonUnavailable)


def test_stopped_daemon_is_daemon_unavailable_when_its_grace_is_over() -> None:
    with RealDaemon(grace_s=2.0) as daemon:
        call = compile_for(daemon, torch.sin, connect_timeout_s=2)
        kept = call(torch.ones(2))
        kept.sum().item()
        worker = daemon.worker()
        os.kill(daemon.pid, signal.SIGSTOP)
        os.kill(worker, signal.SIGSTOP)
        assert isinstance(Outcome(lambda: kept.sum().item()).wait(), DaemonUnavailable)
        assert isinstance(root(Outcome(lambda: call(torch.ones(2))).wait()), DaemonUnavailable)


def test_stopped_worker_is_request_timeout_and_a_new_session_works_when_it_goes_on(daemon: RealDaemon) -> None:
    call = compile_for(daemon, torch.sin, request_timeout_s=3)
    expected = torch.ones(2).sin().sum().item()
    assert call(torch.ones(2)).sum().item() == expected
    worker = daemon.worker()
    os.kill(worker, signal.SIGSTOP)
    assert isinstance(Outcome(lambda: call(torch.ones(2)).sum().item()).wait(), RequestTimeout)
    with contextlib.suppress(ProcessLookupError):  # after some seconds it is replaced
        os.kill(worker, signal.SIGCONT)
    error = Outcome(lambda: call(torch.ones(2)).sum().item()).wait()
    if error is not None:  # the connection was cut while the worker was stopped, which one call may notice
        assert isinstance(error, SessionLost), error
        assert call(torch.ones(2)).sum().item() == expected


def test_client_that_was_stopped_for_longer_than_the_grace_has_its_results_again() -> None:
    code = """if True:
        import sys, torch
        from dynamo_genie.backend import genie
        call = torch.compile(torch.sin, backend=genie, options={"daemons": [sys.argv[1]], "request_timeout_s": 60})
        kept, expected = call(torch.ones(3)), torch.ones(3).sin()
        for line in sys.stdin:
            print(torch.equal(kept + 0, expected), flush=True)
    """
    with (
        RealDaemon(grace_s=2.0) as daemon,
        subprocess.Popen(
            [sys.executable, "-c", code, daemon.endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=REPOSITORY,
            text=True,
            bufsize=1,
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        answers = []
        for _ in range(2):
            client.stdin.write("\n")
            answers.append(client.stdout.readline().strip())
            os.kill(client.pid, signal.SIGSTOP)
            assert eventually(lambda: not daemon.status().sessions, 30), "the daemon still waits for it"
            os.kill(client.pid, signal.SIGCONT)
        client.stdin.write("\n")
        answers.append(client.stdout.readline().strip())
        client.stdin.close()
        client.wait(LIMIT_S)
    assert answers == ["True", "True", "True"]


def test_request_that_takes_longer_than_its_limit_is_request_timeout(daemon: RealDaemon) -> None:
    running = start_heavy(daemon, request_timeout_s=4)
    error = running.wait()
    assert isinstance(error, RequestTimeout)
    assert "GENIE_REQUEST_TIMEOUT_S" in str(error)
    assert "4 s" in str(error)


# --- full memory -----------------------------------------------------------------------------------------


def assert_full(error: BaseException | None) -> None:
    assert isinstance(root(error), QuotaExceeded | RemoteOutOfMemory), error
    assert isinstance(root(error), GenieError)


def test_model_that_does_not_fit_is_quota_exceeded_and_the_session_goes_on(shared_daemon: RealDaemon) -> None:
    small = nn.Linear(64, 64).requires_grad_(False)
    call = compile_for(shared_daemon, small)
    kept = call(torch.ones(1, 64))
    big = nn.Sequential(*(nn.Linear(1_500, 1_500) for _ in range(10))).requires_grad_(False)
    too_big = compile_for(shared_daemon, big)
    for _ in range(2):
        assert_full(Outcome(lambda: too_big(torch.ones(1, 1_500)).sum().item()).wait(60))
    assert torch.equal(kept + 0, small(torch.ones(1, 64)))
    fits = nn.Sequential(*(nn.Linear(1_500, 1_500) for _ in range(5))).requires_grad_(False)
    x = torch.ones(1, 1_500)
    assert torch.equal(compile_for(shared_daemon, fits)(x) + 0, fits(x))


def test_upload_that_does_not_fit_is_quota_exceeded_and_the_session_goes_on(shared_daemon: RealDaemon) -> None:
    call = compile_for(shared_daemon, torch.sin)
    assert_full(Outcome(lambda: call(torch.ones(70 * MIB // 4)).sum().item()).wait(60))
    for _ in range(4):  # each fits only when the one before left nothing behind
        assert call(torch.zeros(25 * MIB // 4))[:5].sum().item() == 0


def test_results_that_do_not_fit_are_an_error_until_something_is_freed(shared_daemon: RealDaemon) -> None:
    call = compile_for(shared_daemon, lambda x: x.expand(15 * MIB // 4) + 1)
    kept = [call(torch.ones(1)) for _ in range(3)]
    kept[2][0].item()
    failed = call(torch.ones(1)), call(torch.ones(1))
    with pytest.raises((QuotaExceeded, torch.OutOfMemoryError)):
        failed[1][0].item()
    with pytest.raises((QuotaExceeded, torch.OutOfMemoryError)):
        failed[1].sum().item()
    del kept[:]
    assert call(torch.ones(1))[0].item() == 2


def test_intermediate_that_no_memory_holds_is_out_of_memory(shared_daemon: RealDaemon) -> None:
    def huge(x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0] * 2**46).sum() + x  # 256 TiB: more than any address space here

    with pytest.raises(torch.OutOfMemoryError) as caught:
        compile_for(shared_daemon, huge)(torch.ones(1)).sum().item()
    assert isinstance(caught.value, RemoteOutOfMemory)
    assert compile_for(shared_daemon, torch.sin)(torch.zeros(1)).item() == 0


def test_waits_end_within_their_limit(shared_daemon: RealDaemon) -> None:
    """The clock of the limits is the real one: a limit of a second is not ten."""
    call = compile_for("tcp://127.0.0.1:9", torch.sin, connect_timeout_s=1)
    begin = time.monotonic()
    assert isinstance(root(Outcome(lambda: call(torch.ones(2))).wait()), DaemonUnavailable)
    assert time.monotonic() - begin < PROMPTLY_S
