"""A process that has PyTorch loaded, from which workers are forked: `python -m ... FD PARENT MODULE HIDE`.

It hears the supervisor alone, over a socket pair, and has one thread, so that what a fork inherits is whole. What it
forks is an orphan at once: the supervisor adopts it, and waits for it as for any other child. The fork enters its
sandbox while it has one thread, too, and then runs `main` of the module.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import socket
import sys
import tempfile

import msgspec

from dynamo_genie.remote_daemon.channel.parent import die_with_parent
from dynamo_genie.remote_daemon.channel.prctl import name_process
from dynamo_genie.remote_daemon.sandbox.enter import PIPE_FD, enter_or_tell, environment_into
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions
from dynamo_genie.remote_daemon.sandbox.privileges import hide_memory

NAME = "dynamo_genie.remote_daemon.sandbox.fork_server"
PROCESS_NAME = "genie-standby"
READY = b"ready"
MAX_ORDER_NBYTES = 1 << 20
DESCRIPTORS = 2
"""An order brings the worker's end of the pipe, and the page on which it notes what runs."""


class Forked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to an order: the worker's process id and its number for the page, or why there is none."""

    pid: int = 0
    note_fd: int = -1
    error: str = ""


def main() -> None:
    """Load what workers run, say so, and fork until the supervisor closes its end."""
    fd, parent, module, hide = sys.argv[1:]
    orders = socket.socket(fileno=int(fd))
    os.set_inheritable(int(fd), False)
    die_with_parent(int(parent))
    name_process(PROCESS_NAME)
    if hide == "1":
        hide_memory()  # who is forked next must not be in the hands of who was forked before
    run = importlib.import_module(module).main
    gc.collect()
    gc.freeze()  # a collection writes to each object, and what is written is shared no more
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SystemExit(f"{module} started {threads - 1} threads when it was imported: a fork would lack them")
    orders.send(READY)
    while True:
        order, fds, _, _ = socket.recv_fds(orders, MAX_ORDER_NBYTES, DESCRIPTORS)
        if not order:
            return
        answer = _fork(order, fds)
        if answer is None:
            orders.close()
            sys.argv = [module, PIPE_FD, str(fds[0])]
            run()
            return
        for each in fds:
            os.close(each)
        orders.send(msgspec.json.encode(answer))


def _fork(order: bytes, fds: list[int]) -> Forked | None:
    """Fork a worker and return what to tell the supervisor; None in the worker, which has entered its sandbox."""
    pipe_fd, note_fd = fds
    try:
        pid = fork_orphan()
    except OSError as error:
        return Forked(error=f"fork: {error.strerror}")
    if pid:
        return Forked(pid, note_fd)
    os.setsid()
    restrictions = msgspec.json.decode(order, type=Restrictions)
    os.environ.update(environment_into(restrictions))
    tempfile.tempdir = None  # what a module found before is not this worker's
    sys.dont_write_bytecode = restrictions.confined
    enter_or_tell(restrictions, pipe_fd)
    return None


def fork_orphan() -> int:
    """Fork a process whose parent is whoever adopts this process's orphans; return its id, 0 in itself.

    Raises:
        OSError: There can be no more processes.
    """
    read, write = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            child = _fork_or_nothing()
            if child == 0:
                return 0
            os.write(write, str(child).encode())
            os._exit(0)
        os.close(write)
        write = -1
        os.waitpid(between, 0)  # its children have been adopted when that returns
        answer = os.read(read, 32)
        pid = int(answer) if answer else -errno.ESRCH  # somebody killed it before it said anything
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _fork_or_nothing() -> int:
    """Fork and return the child's id, or the negative number of the error."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or 1)


if __name__ == "__main__":
    main()
