"""A daemon whose worker, on SIGUSR1, tries to leave its sandbox: `python -m ... daemon ARGUMENTS`, or the worker.

What it tried and what came of it goes to the log as one line of JSON: "done", or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.remote_daemon.own_workers import run_daemon_with

NAME = "tests.trust.probing_worker"
MARK = "PROBES "
PLACES = "GENIE_TEST_PLACES"
"""Names of files: `key`, `file`, `folder`."""

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
CLONE_NEWUSER, SIGCHLD = 0x1000_0000, 17


def attempt(action: Callable[[], object]) -> str:
    """Return "done", or the name of the error."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except subprocess.CalledProcessError as error:
        return f"exit code {error.returncode}"
    return "done"


def call(name: str, *arguments: Any) -> int:
    """Call a function of libc, or raise its error."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    result = function(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call of x86-64."""
    return call("syscall", ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))


def attach(pid: int) -> None:
    call("ptrace", ctypes.c_long(PTRACE_ATTACH), pid, None, None)
    os.waitpid(pid, 0)
    call("ptrace", ctypes.c_long(PTRACE_DETACH), pid, None, None)


def new_user_namespace() -> None:
    """Become root in a name space of one's own, in a child, as `clone` lets."""
    pid = system_call(56, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def run_own_program() -> None:
    path = Path(tempfile.gettempdir(), "program")
    path.write_text("#!/bin/sh\n")
    path.chmod(0o700)
    subprocess.run([path], check=True)


def quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def in_scratch() -> None:
    path = Path(tempfile.gettempdir(), "file")
    path.write_text("text")
    assert path.read_text() == "text"
    path.unlink()


def all_threads_are_confined() -> None:
    for status in Path("/proc/self/task").glob("*/status"):
        fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        if (fields["NoNewPrivs"], fields["Seccomp"]) != ("1", "2"):
            raise OSError(errno.EPERM, status)


def probes() -> dict[str, str]:
    """Try everything."""
    places = {name: Path(path) for name, path in json.loads(os.environ[PLACES]).items()}
    key, file, folder, supervisor = places["key"], places["file"], places["folder"], os.getppid()
    torch = sys.modules["torch"].__file__
    assert torch is not None
    word = ctypes.create_string_buffer(16)
    tried: dict[str, Callable[[], object]] = {
        "read the key": key.read_bytes,
        "list the keys": lambda: os.listdir(key.parent),
        "read the key by a program": lambda: quietly("cat", str(key)),
        "read a file of the client's": file.read_bytes,
        "write a file of the client's": lambda: file.write_text("x"),
        "truncate a file of the client's": lambda: os.truncate(file, 0),
        "remove a file of the client's": file.unlink,
        "make a file outside": lambda: (folder / "new").write_text("x"),
        "make a directory outside": lambda: (folder / "directory").mkdir(),
        "read passwords": Path("/etc/shadow").read_bytes,
        "list homes": lambda: os.listdir(Path.home()),
        "list the temporary directory": lambda: os.listdir("/tmp"),
        "write a package": lambda: Path(torch).open("a").close(),
        "write a module's bytecode": lambda: Path(torch).with_name("new.pyc").touch(),
        "look at the supervisor's memory": lambda: Path(f"/proc/{supervisor}/mem").open("rb").close(),
        "look at the supervisor's environment": Path(f"/proc/{supervisor}/environ").read_bytes,
        "look at the supervisor's files": lambda: os.listdir(f"/proc/{supervisor}/fd"),
        "trace the supervisor": lambda: attach(supervisor),
        "read the supervisor's memory": lambda: system_call(310, supervisor, ctypes.addressof(word), 1, 0, 1, 0),
        "signal the supervisor": lambda: os.kill(supervisor, signal.SIGCONT),
        "unshare": lambda: call("unshare", CLONE_NEWUSER),
        "make a user name space": new_user_namespace,
        "mount": lambda: call("mount", b"none", os.fsencode(folder), b"tmpfs", 0, None),
        "change the root": lambda: os.chroot("/usr"),
        "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "load a program into the kernel": lambda: system_call(321, 0, 0, 0),
        "set up io_uring": lambda: system_call(425, 1, 0),
        "become root again": lambda: os.setuid(0) if os.getuid() else os.setgroups([]),
        "run a program of its own": run_own_program,
        "run a compiler": lambda: quietly("g++", "--version"),
        "use its scratch directory": in_scratch,
        "read PyTorch": Path(torch).read_bytes,
        "look at itself": Path("/proc/self/maps").read_bytes,
        "have threads that are confined": all_threads_are_confined,
    }
    found = {name: attempt(action) for name, action in tried.items()}
    found["core file"] = str(resource.getrlimit(resource.RLIMIT_CORE))
    found["user"] = str(os.getuid())
    found["scratch"] = tempfile.gettempdir()
    return found


def report(number: int, frame: object) -> None:
    """Write what came of it to the log."""
    os.write(2, (MARK + json.dumps(probes()) + "\n").encode())


def main() -> None:
    from dynamo_genie.remote_daemon.worker import worker

    signal.signal(signal.SIGUSR1, report)
    worker.main()


if __name__ == "__main__":
    run_daemon_with(NAME) if sys.argv[1:2] == ["daemon"] else main()
