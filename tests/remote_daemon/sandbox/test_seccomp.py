"""The filter, run by an interpreter of its few instructions."""

from __future__ import annotations

import errno
import struct

import pytest

from dynamo_genie.remote_daemon.sandbox.seccomp import (
    AARCH64,
    ALLOW,
    AUDIT_ARCH,
    CLONE,
    CLONE3,
    DENIED,
    SOCKET,
    X86_64,
    filter_for,
)

MACHINES = (X86_64, AARCH64)
I386 = 0x4000_0003
REFUSED = 0x0005_0000


def answer(machine: str, number: int, first: int = 0, *, arch: int | None = None) -> int:
    """What the filter says to a call."""
    program = filter_for(machine)
    assert program is not None
    data = struct.pack("=iIQ6Q", number, AUDIT_ARCH[machine] if arch is None else arch, 0, first, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_no_worker_needs_is_refused_and_the_rest_is_not(machine: str) -> None:
    column = MACHINES.index(machine)
    denied = {numbers[column] for numbers in DENIED.values() if numbers[column] >= 0}
    assert len(denied) > 45
    for number in range(500):
        expected = ALLOW
        if number in denied:
            expected = REFUSED | errno.EPERM
        elif number == CLONE3:
            expected = REFUSED | errno.ENOSYS
        elif number == SOCKET[machine]:
            expected = REFUSED | errno.EAFNOSUPPORT  # family 0
        assert answer(machine, number) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_and_processes_may_be_made_and_name_spaces_not(machine: str) -> None:
    threads = 0x003D_0F00  # CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS | ..._TID, as pthread_create
    for flags in (17, threads, 0x4111):  # fork, a thread, vfork
        assert answer(machine, CLONE[machine], flags) == ALLOW
    for name_space in (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000):
        assert answer(machine, CLONE[machine], name_space | 17) == REFUSED | errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_of_few_families_may_be_made(machine: str) -> None:
    allowed = {family for family in range(64) if answer(machine, SOCKET[machine], family) == ALLOW}
    assert allowed == {1, 2, 10, 16}


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_abi_are_refused(machine: str) -> None:
    assert answer(machine, 0, arch=I386) == REFUSED | errno.EPERM
    if machine == X86_64:
        assert answer(machine, 0x4000_0000 | 39) == REFUSED | errno.EPERM


def test_an_unknown_machine_has_no_filter() -> None:
    assert filter_for("riscv64") is None
    assert all(numbers[0] >= 0 for numbers in DENIED.values())
