"""Landlock: which files this process, and all that it starts, may open (Linux 5.13). Applies a `FilePlan`; for good."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable

from dynamo_genie.remote_daemon.sandbox.plan import FilePlan

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
ABSTRACT_SOCKETS, SIGNALS = 1 << 0, 1 << 1

RIGHTS_OF_ABI = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
"""The rights that each version of the interface knows; later ones know those of the last."""

SCOPES_ABI = 6

OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READS = EXECUTE | READ_FILE | READ_DIR
DATA = READ_FILE | READ_DIR
DEVICE = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV
OWNS = (
    READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK
    | MAKE_FIFO | MAKE_SYM | REFER
)  # fmt: skip


def version() -> int:
    """Return the version of the kernel's interface, 0 where it has none or it is switched off."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), GET_VERSION)))


def restrict(plan: FilePlan) -> None:
    """Confine this process to a plan. It must have one thread, and have given up new privileges.

    Raises:
        OSError: The kernel refuses.
    """
    abi = version()
    rights = RIGHTS_OF_ABI[min(abi, len(RIGHTS_OF_ABI) - 1)]
    scopes = ABSTRACT_SOCKETS | SIGNALS if abi >= SCOPES_ABI else 0
    attributes = struct.pack("=QQQ", rights, 0, scopes)
    ruleset = _check(_libc().syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "create_ruleset")
    try:
        granted = (
            (plan.reads, READS),
            (plan.lists, READ_DIR),
            (plan.data, DATA),
            (plan.devices, DEVICE),
            (plan.owns, OWNS),
        )
        for places, these in granted:
            _grant(ruleset, places, these & rights)
        _check(_libc().syscall(RESTRICT_SELF, ruleset, 0), "restrict_self")
    finally:
        os.close(ruleset)


def _grant(ruleset: int, places: Iterable[str], rights: int) -> None:
    for place in places:
        try:
            fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                continue  # what is not there, or not for this user, needs no permission
            raise
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        rule = struct.pack("=Qi", rights if is_directory else rights & OF_FILES, fd)
        _check(_libc().syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0), f"add_rule for {place}")
        if not place.startswith("/proc/"):  # of these the kernel makes inodes anew, unless one is held
            os.close(fd)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock_{what}: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
