"""A worker that would do harm: what a real one, in service, can do to the machine and to its daemon."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

import dynamo_genie
from dynamo_genie.remote_daemon.sandbox.plan import SIGNALS_ABI
from dynamo_genie.remote_daemon.sandbox.surroundings import kernel
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import open_session
from tests.integration import real_daemon
from tests.integration.real_daemon import LIMIT_S, RealDaemon, eventually
from tests.trust import probing_worker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        kernel().landlock < SIGNALS_ABI or not kernel().seccomp or platform.machine() != "x86_64",
        reason="a kernel without a whole sandbox",
    ),
]

NOBODY = "nobody"

ALLOWED = {
    "run a compiler": "done",
    "use its scratch directory": "done",
    "read PyTorch": "done",
    "look at itself": "done",
    "have threads that are confined": "done",
    "core file": "(0, 0)",
}
OTHER_ERRORS = {
    "open a raw socket": "EAFNOSUPPORT",
    "read the key by a program": "exit code 1",
}
BY_LANDLOCK = {
    "read the key", "list the keys", "read a file of the client's", "write a file of the client's",
    "truncate a file of the client's", "remove a file of the client's", "make a file outside",
    "make a directory outside", "read passwords", "list homes", "list the temporary directory", "write a package",
    "write a module's bytecode", "look at the supervisor's memory", "look at the supervisor's environment",
    "look at the supervisor's files", "run a program of its own",
}  # fmt: skip


class ProbingDaemon(RealDaemon):
    """A daemon with keys whose worker tries to leave its sandbox when it is told to."""

    program = ("-m", probing_worker.NAME)

    def __init__(self, folder: Path, *arguments: str, before: Sequence[str] = (), **settings: Any) -> None:
        self._folder, self._arguments, self._before = folder, arguments, before
        self.keys = folder / "keys"
        self.key_file = create_client_keys(create_server_keys(self.keys), "alice")
        self.client = load_client_keys(self.key_file)
        self.file = folder / "file"
        self.file.write_text("the client's")
        super().__init__(keys=self.keys, **settings)

    def _start(self) -> None:
        self._command[:] = [*self._before, *self._command, *self._arguments]
        super()._start()

    def probe(self) -> dict[str, str]:
        """Have the worker of a session that was used try everything; return what came of it."""
        with zmq.Context() as context:
            session = open_session(
                context, self.endpoint, keys=self.client, connect_timeout_s=LIMIT_S, request_timeout_s=LIMIT_S
            )
            os.kill(self.worker(), signal.SIGUSR1)
            assert eventually(lambda: probing_worker.MARK in self.log()), self.log()
            session.close()
        line = next(line for line in self.log().splitlines() if line.startswith(probing_worker.MARK))
        found: dict[str, str] = json.loads(line.removeprefix(probing_worker.MARK))
        return found


def started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, before: Sequence[str] = ()
) -> ProbingDaemon:
    places = {"key": tmp_path / "keys" / "server.key", "file": tmp_path / "file", "folder": tmp_path}
    monkeypatch.setenv(probing_worker.PLACES, json.dumps({name: str(path) for name, path in places.items()}))
    return ProbingDaemon(tmp_path, *arguments, before=before)


def require_refusals(found: Mapping[str, str]) -> None:
    allowed = {name: found[name] for name in ALLOWED}
    assert allowed == ALLOWED
    others = {name: result for name, result in found.items() if name not in ALLOWED and name not in ("user", "scratch")}
    assert {name: others[name] for name in OTHER_ERRORS} == OTHER_ERRORS
    assert {others[name] for name in BY_LANDLOCK} <= {"EACCES", "EPERM"}
    rest = others.keys() - OTHER_ERRORS.keys() - BY_LANDLOCK
    assert {name: others[name] for name in rest} == dict.fromkeys(rest, "EPERM")
    assert len(rest) == 10


@pytest.mark.parametrize("more", [(), ("--standby",)], ids=["started", "forked"])
def test_a_worker_can_do_nothing_but_its_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with started(monkeypatch, tmp_path, *more) as daemon:
        found = daemon.probe()
        require_refusals(found)
        assert found["user"] == str(os.getuid())
        assert daemon.file.read_text() == "the client's"
        scratch = Path(found["scratch"])
        assert (scratch.stat().st_mode & 0o777) == 0o700
        os.kill(daemon.worker(), signal.SIGKILL)
        assert eventually(lambda: not scratch.exists())
        assert "missing" not in daemon.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("more", [(), ("--standby",)], ids=["started", "forked"])
def test_a_worker_can_be_given_a_user_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...]
) -> None:
    import pwd

    before = within_reach_of_others()
    with started(monkeypatch, tmp_path, "--worker-user", NOBODY, *more, before=before) as daemon:
        found = daemon.probe()
        require_refusals(found)
        assert found["user"] == str(pwd.getpwnam(NOBODY).pw_uid)
        assert "run as root" not in daemon.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_is_enough_where_nothing_else_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the kernel refuses another user it refuses without a sandbox."""
    tmp_path.parent.chmod(0o755)
    before = within_reach_of_others()
    with started(monkeypatch, tmp_path, "--worker-user", NOBODY, "--no-sandbox", before=before) as daemon:
        found = daemon.probe()
        refused = {
            "read the key", "list the keys", "write a file of the client's", "make a file outside", "read passwords",
            "write a package", "look at the supervisor's memory", "look at the supervisor's environment",
            "trace the supervisor", "signal the supervisor", "mount", "become root again",
        }  # fmt: skip
        assert {found[name] for name in refused} <= {"EACCES", "EPERM"}
        assert "the sandbox is off (--no-sandbox)" in daemon.log()


def within_reach_of_others() -> list[str]:
    """Return what shows a command a Python that lies in a home, in a name space of mounts of its own."""
    base = Path(sys.base_prefix).resolve()
    hidden = [parent for parent in base.parents if not parent.stat().st_mode & 0o001]
    if not hidden:
        return []
    script = (
        'set -e; stash=$(mktemp -d); mount --bind "$1" "$stash"; mount -t tmpfs -o mode=755 tmpfs "$2"; '
        'mkdir -p "$1"; mount --bind "$stash" "$1"; umount "$stash"; rmdir "$stash"; shift 2; exec "$@"'
    )
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "-", str(base), str(hidden[-1])]
    if subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("Python lies in a home, and no name space can be made")
    return command


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_that_cannot_reach_what_it_needs_is_told_of_before_anybody_waits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynamo_genie.cli", "daemon", "--listen", "tcp://127.0.0.1:*"]
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [*command, "--worker-user", NOBODY],
        capture_output=True,
        text=True,
        env=real_daemon.environment({"TMPDIR": str(tmp_path)}),
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"--worker-user {NOBODY} cannot read" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [(), ("--standby",)], ids=["started", "forked"])
@pytest.mark.parametrize(
    "user", ["", pytest.param(NOBODY, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"))]
)
def test_a_confined_worker_compiles_with_inductor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str, more: tuple[str, ...]
) -> None:
    """The compiler runs, reads what it must, and writes in the scratch directory."""
    given = (*more, "--worker-user", user) if user else more
    with started(monkeypatch, tmp_path, *given, before=within_reach_of_others() if user else ()) as daemon:
        options = {"daemons": [daemon.endpoint], "key_file": str(daemon.key_file), "engine": "inductor"}
        call = torch.compile(lambda x: (x + 1).relu() * x.sin(), backend="genie", options=options)  # type: ignore[call-overload]
        x = torch.randn(5, 7)
        expected = (x + 1).relu() * x.sin()
        torch.testing.assert_close(call(x).clone(), expected)
        scratch = Path(daemon.probe()["scratch"])
        assert eventually(lambda: list(scratch.glob("inductor/**/*.so")), 120), daemon.log()
        for _ in range(20):
            torch.testing.assert_close(call(x).clone(), expected)
        dynamo_genie.shutdown()
        assert "could not be compiled" not in daemon.log()


def test_a_user_that_is_not_there_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynamo_genie.cli", "daemon", "--listen", f"ipc://{tmp_path}/d", "--worker-user"]
    done = subprocess.run(
        [*command, "no-such-user"],
        capture_output=True,
        text=True,
        env=real_daemon.environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert ("there is no such user" if os.geteuid() == 0 else "needs a daemon that is root") in done.stderr
