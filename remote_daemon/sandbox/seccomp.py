"""Seccomp: which system calls a worker cannot make. The filter is plain data; `install` hands it to the kernel.

Refused calls fail with EPERM, as for a user without the right, so that libraries find another way or say so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping
from types import MappingProxyType

X86_64, AARCH64 = "x86_64", "aarch64"

AUDIT_ARCH: Mapping[str, int] = MappingProxyType({X86_64: 0xC000003E, AARCH64: 0xC00000B7})
X32_BIT = 0x4000_0000
"""Numbers from here on are calls of another ABI of x86-64."""

SECCOMP: Mapping[str, int] = MappingProxyType({X86_64: 317, AARCH64: 277})
CLONE: Mapping[str, int] = MappingProxyType({X86_64: 56, AARCH64: 220})
SOCKET: Mapping[str, int] = MappingProxyType({X86_64: 41, AARCH64: 198})
CLONE3 = 435

DENIED: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        # other processes
        "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
        "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
        # file systems and name spaces
        "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268),
        "unshare": (272, 97), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
        "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
        "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
        "quotactl": (179, 60), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
        # the kernel
        "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
        "kexec_file_load": (320, 294), "reboot": (169, 142), "bpf": (321, 280), "perf_event_open": (298, 241),
        "syslog": (103, 116), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        # keys, clocks, names, hardware
        "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "settimeofday": (164, 170),
        "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
        "setdomainname": (171, 162), "vhangup": (153, 58), "iopl": (172, -1), "ioperm": (173, -1),
        "modify_ldt": (154, -1),
    }
)  # fmt: skip
"""Calls that no worker needs, with their numbers on x86-64 and aarch64; -1 where there is none."""

NAMESPACES = 0x7E02_0000
"""Flags of `clone` that make name spaces; in one of its own a process would be root."""

FAMILIES = (1, 2, 10, 16)
"""Sockets that may be made: of files, IPv4, IPv6, and netlink, by which libraries ask for addresses."""

ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _FIRST_ARGUMENT = 0, 4, 16

SET_MODE_FILTER, GET_ACTION_AVAIL = 1, 2
SPEC_ALLOW = 1 << 2  # older kernels would slow the whole process down otherwise


def filter_for(machine: str) -> bytes | None:
    """Return the filter for a kind of machine, a program of 8-byte instructions; None where its calls are not known."""
    if machine not in AUDIT_ARCH:
        return None
    column = 0 if machine == X86_64 else 1
    program = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, AUDIT_ARCH[machine], 1, 0),
        _refuse(errno.EPERM),
        _step(_LOAD, _NR),
    ]
    if machine == X86_64:
        program += [_step(_AT_LEAST, X32_BIT, 0, 1), _refuse(errno.EPERM)]
    for numbers in DENIED.values():
        if numbers[column] >= 0:
            program += [_step(_EQUAL, numbers[column], 0, 1), _refuse(errno.EPERM)]
    program += [_step(_EQUAL, CLONE3, 0, 1), _refuse(errno.ENOSYS)]  # its flags cannot be seen; libc takes `clone`
    program += [
        _step(_EQUAL, CLONE[machine], 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, NAMESPACES, 0, 1),
        _refuse(errno.EPERM),
        _step(_RETURN, ALLOW),
    ]
    program += [_step(_EQUAL, SOCKET[machine], 1, 0), _step(_RETURN, ALLOW), _step(_LOAD, _FIRST_ARGUMENT)]
    for family in FAMILIES:
        program += [_step(_EQUAL, family, 0, 1), _step(_RETURN, ALLOW)]
    return b"".join([*program, _refuse(errno.EAFNOSUPPORT)])


def available() -> bool:
    """Whether the kernel takes filters that answer with an error."""
    number = SECCOMP.get(platform.machine())
    if number is None or not sys.platform.startswith("linux"):
        return False
    action = ctypes.c_uint32(_ERRNO)
    return int(_libc().syscall(number, GET_ACTION_AVAIL, 0, ctypes.byref(action))) == 0


def install() -> None:
    """Filter the system calls of this process, which must have given up new privileges.

    Raises:
        OSError: The kernel refuses.
    """
    program = filter_for(platform.machine())
    assert program is not None
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if _libc().syscall(SECCOMP[platform.machine()], SET_MODE_FILTER, SPEC_ALLOW, described) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
