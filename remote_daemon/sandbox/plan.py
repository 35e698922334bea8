"""The plan of a sandbox: which files a worker may read, run and write. Pure; the kernel is told in `landlock`.

A worker reads what Python, PyTorch and the libraries below them read, and writes a directory that was made for it.
Everything else is refused: keys, homes, the client's files, other workers' directories.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import msgspec


class WorkerUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user that workers run as, where the daemon is root."""

    name: str
    uid: int
    gid: int


class Restrictions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The restrictions of one worker, as the supervisor orders them; they travel on the worker's command line.

    Attributes:
        scratch: The directory that is the worker's own.
        hidden: Directories that it must not read, wherever they lie: keys.
        user: Whom it runs as; None leaves it the daemon's user.
        confined: Whether its files and system calls are restricted; false with `--no-sandbox`.
        cuda: Whether it may use NVIDIA's devices.
        whole_errors: Whether its errors may name paths of this machine.
        shares: Directories that it has with other workers of its tenant.
        models: Directories that all workers may read.
    """

    scratch: str
    hidden: tuple[str, ...] = ()
    user: WorkerUser | None = None
    confined: bool = True
    cuda: bool = False
    whole_errors: bool = False
    shares: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Surroundings:
    """The places of one Python installation: what its code and its libraries lie beneath."""

    python: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    shared_memory: bool = False


@dataclass(frozen=True)
class FilePlan:
    """The files of a worker: all beneath `reads` may be read and run, and so on; the rest may not be opened.

    Attributes:
        lists: Directories whose entries' names may be read.
        data: What may be read, and not run.
        devices: What may be read, written and controlled, where it stands.
        owns: Directories where files may be made, written and removed; nothing in them may be run.
    """

    reads: tuple[str, ...]
    lists: tuple[str, ...]
    data: tuple[str, ...]
    devices: tuple[str, ...]
    owns: tuple[str, ...]


SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/gnu/store")
"""Where systems keep libraries, and the compiler that Inductor calls."""

SETTINGS = tuple(
    f"/etc/{name}"
    for name in (
        "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives", "localtime", "timezone",
        "locale.alias", "passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "gai.conf",
        "services", "protocols", "OpenCL", "vulkan",
    )
)  # fmt: skip
"""What libraries read of /etc, and no more: keys and passwords lie there too."""

KERNEL = (
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems",
    "/proc/loadavg", "/proc/sys/vm", "/proc/sys/kernel/random", "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/osrelease", "/proc/sys/kernel/ngroups_max", "/proc/sys/net/core/somaxconn",
    "/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage", "/sys/kernel/mm/hugepages",
)  # fmt: skip
KERNEL_WITH_CUDA = ("/proc", "/sys")

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHARED_MEMORY = "/dev/shm"
"""What CUDA and Intel's OpenMP share between processes."""


def plan_files(restrictions: Restrictions, around: Surroundings, entries: Callable[[str], Collection[str]]) -> FilePlan:
    """Return what a worker with these restrictions may open.

    Args:
        entries: Returns the names in a directory. Asked for those alone that hold something hidden.
    """
    wanted = [*SYSTEM, *SETTINGS, *around.python, *around.libraries]
    wanted += KERNEL_WITH_CUDA if restrictions.cuda else KERNEL
    reads, lists = _without(outermost(wanted), restrictions.hidden, entries)
    data, more_lists = _without(outermost(restrictions.models), restrictions.hidden, entries)
    devices = DEVICES + (around.devices if restrictions.cuda else ())
    shared = (SHARED_MEMORY,) if restrictions.cuda or around.shared_memory else ()
    owns = restrictions.scratch, *restrictions.shares, *shared
    return FilePlan(tuple(reads), (*lists, *more_lists), tuple(data), devices, owns)


def _without(
    places: Iterable[str], hidden: Collection[str], entries: Callable[[str], Collection[str]]
) -> tuple[list[str], list[str]]:
    reads: list[str] = []
    lists: list[str] = []
    for place in places:
        some, names_only = without(place, hidden, entries)
        reads += some
        lists += names_only
    return reads, lists


def outermost(places: Iterable[str]) -> list[str]:
    """Return absolute paths without repetitions and without those that lie beneath another one."""
    found: list[str] = []
    for place in sorted({place for place in places if place.startswith("/")}, key=lambda place: (len(place), place)):
        if not any(is_beneath(place, other) for other in found):
            found.append(place)
    return found


def without(
    place: str, hidden: Collection[str], entries: Callable[[str], Collection[str]]
) -> tuple[list[str], list[str]]:
    """Return what there is of a place besides what is hidden, and the directories on the way, to be listed only."""
    if any(is_beneath(place, secret) for secret in hidden):
        return [], []
    if not any(is_beneath(secret, place) for secret in hidden):
        return [place], []
    reads, lists = [], [place]
    for name in sorted(entries(place)):
        some, names_only = without(f"{place.rstrip('/')}/{name}", hidden, entries)
        reads += some
        lists += names_only
    return reads, lists


def is_beneath(path: str, directory: str) -> bool:
    """Whether a path is a directory, or lies in it, by their names."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


# --- what a kernel lacks ---------------------------------------------------------------------------------

SIGNALS_ABI = 6
TRUNCATE_ABI = 3


@dataclass(frozen=True)
class Kernel:
    """The means of a kernel: `landlock` is the version of its interface, 0 for none."""

    landlock: int
    seccomp: bool


def gaps(kernel: Kernel, *, confined: bool, is_root: bool, user: WorkerUser | None) -> list[str]:
    """Return what of a sandbox cannot be had: which, why, and what it means."""
    found = []
    if not confined:
        found.append("the sandbox is off (--no-sandbox): code that runs in a worker can do what the worker's user can")
    elif not kernel.landlock:
        found.append(
            "Landlock is missing (Linux 5.13, and `landlock` among the kernel's lsm=): workers can open every file "
            "that their user can, keys too; give them another user with --worker-user"
        )
    elif kernel.landlock < SIGNALS_ABI:
        found.append(
            f"Landlock has version {kernel.landlock} here, and only {SIGNALS_ABI} (Linux 6.12) confines signals: "
            "workers can send signals to other processes of their user"
        )
    if confined and kernel.landlock and kernel.landlock < TRUNCATE_ABI:
        found.append("Landlock forbids no truncation before Linux 6.2: workers can empty what their user can write")
    if confined and not kernel.seccomp:
        found.append(
            "seccomp is missing, or the calls of this kind of machine are not known: workers can make them all"
        )
    if is_root and user is None:
        found.append("workers run as root, with few of its capabilities; --worker-user gives them a user of their own")
    return found
