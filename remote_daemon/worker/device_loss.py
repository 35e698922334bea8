"""The loss of a device to this process: errors after which nothing that the process asks of it works any more.

A CUDA context that a kernel has poisoned (an index out of range, say) stays so; only a new process has a new one.
"""

from __future__ import annotations

PHRASES = (
    "device-side assert", "illegal memory access", "illegal address", "misaligned address", "illegal instruction",
    "invalid program counter", "unspecified launch failure", "hardware stack error", "uncorrectable ecc",
    "launch timed out", "invalid address space",
)  # fmt: skip
"""From the descriptions of `cudaError_t` in the CUDA runtime's reference: those that leave the context unusable."""


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
