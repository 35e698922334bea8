"""The privileges of this process: its user, capabilities, limits, and who may look into it. Given up here, for good."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
import sys

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.channel.prctl import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, prctl
from dynamo_genie.remote_daemon.sandbox.plan import WorkerUser

CAPABILITY_VERSION_3 = 0x2008_0522
KEPT_CAPABILITIES = (1 << 1) | (1 << 2) | (1 << 10)
"""Of root's: to open what other users own (Landlock says what of that), and to listen on low ports."""

MAX_FILES = 65_536
MAX_PROCESSES = 8_192
"""Processes and threads of a user that only workers have."""


def find_worker_user(name: str) -> WorkerUser:
    """Return the user that workers are to run as.

    Raises:
        OptionError: There is none of this name, it is root, or this process is not.
    """
    if os.geteuid() != 0:
        raise OptionError(f"--worker-user {name} needs a daemon that is root; this one is user {os.geteuid()}")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise OptionError(f"--worker-user {name}: there is no such user; make one with: useradd -r {name}") from None
    if entry.pw_uid == 0:
        raise OptionError(f"--worker-user {name} is root; name a user without rights")
    return WorkerUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def become(user: WorkerUser) -> None:
    """Run as this user from now on, with its groups."""
    os.initgroups(user.name, user.gid)
    os.setgid(user.gid)  # by root: the real, the effective and the saved one
    os.setuid(user.uid)


def gain_nothing_by_exec() -> None:
    """Let no program that this process starts have more rights than it has."""
    if sys.platform.startswith("linux"):
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Let no other process of this user look into this one, where Landlock does not see to that."""
    if sys.platform.startswith("linux"):
        prctl(PR_SET_DUMPABLE, 0)


def drop_capabilities() -> None:
    """Keep few of root's capabilities; another user has none."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), 8)
    held = ctypes.create_string_buffer(24)
    result = libc.capget(header, held)
    if result == 0:
        _, permitted, *_ = struct.unpack("=6I", held.raw)
        kept = permitted & KEPT_CAPABILITIES if os.geteuid() == 0 else 0
        result = libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def limit_resources(*, own_user: bool) -> None:
    """Write no core files, open many files (each client is one), and start no endless number of processes."""
    _lower(resource.RLIMIT_CORE, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if own_user:  # else it would count the processes of whoever started the daemon
        _lower(resource.RLIMIT_NPROC, MAX_PROCESSES)


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(limit, (value, value))
