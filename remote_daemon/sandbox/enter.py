"""The way into a sandbox: `python -m ... RESTRICTIONS MODULE ARGUMENTS` gives up rights, then runs a worker's module.

It happens before the module is imported, while the process has one thread: threads that libraries start later inherit
what was given up, and those that run already would keep their rights.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from importlib.util import find_spec

import msgspec

from dynamo_genie import errors
from dynamo_genie.child_process import child_environment
from dynamo_genie.errors import OptionError
from dynamo_genie.machine_paths import WHOLE_ERRORS, for_clients
from dynamo_genie.remote_daemon.channel.pipe import Pipe
from dynamo_genie.remote_daemon.channel.prctl import name_process
from dynamo_genie.remote_daemon.sandbox import landlock, privileges, seccomp, surroundings
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions, WorkerUser, plan_files
from dynamo_genie.remote_daemon.sandbox.scratch import environment_of
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

NAME = "dynamo_genie.remote_daemon.sandbox.enter"
PIPE_FD = "--pipe-fd"
PROCESS_NAME = "genie-worker"


def command_into(restrictions: Restrictions, command: tuple[str, ...]) -> list[str]:
    """Return what starts `python -m MODULE ...` under restrictions."""
    python, flag, *module = command
    assert flag == "-m"
    return [python, "-m", NAME, msgspec.json.encode(restrictions).decode(), *module]


def environment_into(restrictions: Restrictions) -> dict[str, str]:
    """Return the environment for that, from this process's own."""
    written = environment_of(restrictions.scratch) if restrictions.confined else {}
    return child_environment({**os.environ, **written, WHOLE_ERRORS: "1" if restrictions.whole_errors else "0"})


def enter(restrictions: Restrictions) -> None:
    """Give up what a worker does not need.

    Raises:
        OSError: The kernel refuses.
        OptionError: The worker's user cannot reach what it needs.
    """
    around = surroundings.here()
    kernel = surroundings.kernel()
    privileges.limit_resources(own_user=restrictions.user is not None)
    if restrictions.user is not None:
        privileges.become(restrictions.user)
        _require_access(restrictions.user, restrictions.scratch)
    if not (restrictions.confined and kernel.landlock):
        privileges.hide_memory()
    privileges.gain_nothing_by_exec()
    if not restrictions.confined:
        return
    privileges.drop_capabilities()
    if kernel.landlock:
        landlock.restrict(plan_files(restrictions, around, os.listdir))
    if kernel.seccomp:
        seccomp.install()


def _require_access(user: WorkerUser, scratch: str) -> None:
    torch = find_spec("torch")
    needed = [os.__file__, errors.__file__, torch.origin if torch is not None else None, scratch]
    for place in needed:
        if place is not None and not os.access(place, os.R_OK):
            raise OptionError(
                f"--worker-user {user.name} cannot read {place}; let it, or install Python and PyTorch where it can"
            )


def enter_or_tell(restrictions: Restrictions, pipe_fd: int | None) -> None:
    """Enter the sandbox; where that fails, tell the supervisor why, if there is a pipe to it, and leave."""
    name_process(PROCESS_NAME)
    try:
        enter(restrictions)
    except (OSError, OptionError) as error:
        print(f"the worker's sandbox cannot be made: {error}", file=sys.stderr)  # noqa: T201 - the daemon's log
        if pipe_fd is not None:
            _tell(pipe_fd, for_clients(f"the worker's sandbox cannot be made: {error}"))
        raise SystemExit(1) from error


def main() -> None:
    """Enter the sandbox and run the module."""
    ordered, module, *arguments = sys.argv[1:]
    pipe_fd = int(arguments[arguments.index(PIPE_FD) + 1]) if PIPE_FD in arguments else None
    enter_or_tell(msgspec.json.decode(ordered, type=Restrictions), pipe_fd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _tell(pipe_fd: int, why: str) -> None:
    pipe: Pipe[m.SupervisorToWorker] = Pipe(socket.socket(fileno=pipe_fd), codec.supervisor_to_worker)
    pipe.send(m.WorkerFailed("OptionError", why))


if __name__ == "__main__":
    main()
