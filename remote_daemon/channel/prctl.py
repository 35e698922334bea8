"""Linux's `prctl`: what a process asks the kernel about itself."""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 15, 36, 38
"""From linux/prctl.h."""


def name_process(name: str) -> None:
    """Let `ps` and `top` show this process by a name of at most 15 characters; call it in the main thread."""
    if sys.platform.startswith("linux"):
        prctl(PR_SET_NAME, name.encode())


def prctl(option: int, value: int | bytes) -> None:
    """Set an option of this process.

    Raises:
        OSError: The kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
