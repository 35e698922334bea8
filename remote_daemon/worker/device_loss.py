"""The loss of a device to this process: errors after which nothing that the process asks of it works any more.

A CUDA context that a kernel has poisoned (an index out of range, say) stays so; only a new process has a new one.
"""

from __future__ import annotations

PHRASES = (
    "illegal memory access", "launch timed out", "device-side assert", "hardware stack error", "illegal instruction",
    "misaligned address", "global/shared address space", "invalid program counter", "unspecified launch failure",
    "tensor memory not completely freed", "invalid access of peer gpu memory", "uncorrectable ecc",
    "uncorrectable nvlink", "mps client has been terminated",
)  # fmt: skip
"""Out of what `cudaGetErrorString` says of the errors after which the process must be terminated and relaunched, in the
words of the CUDA 13 runtime's `driver_types.h`, and of memory and links that have failed."""


class DeviceLost(Exception):
    """The worker must end. The message says what happened, for all of its sessions."""


def device_is_lost(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the device is of no more use to this process."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and "cuda" in text and any(phrase in text for phrase in PHRASES):
            return True
        error = error.__cause__
    return False
