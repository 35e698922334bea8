"""Which watched tensors may have been written since the last look: chooses how to tell.

Whether a write can be missed depends on the tracker: see `KernelWriteTracker` and `SampledFingerprint`.
"""

from __future__ import annotations

import logging

from dynamo_genie.runtime.writes.kernel_tracking import KernelWriteTracker
from dynamo_genie.runtime.writes.sampled_tracking import SampledFingerprint
from dynamo_genie.runtime.writes.watch import Watch, WriteTracker

__all__ = ["KernelWriteTracker", "SampledFingerprint", "Watch", "WriteTracker", "make_write_tracker"]

logger = logging.getLogger(__name__)


def make_write_tracker() -> WriteTracker:
    """Return the exact tracker where the kernel has one, else the sampled one (and log which and why).

    One tracker serves all sessions of a process: the kernel lets one tracker only watch a page.
    """
    try:
        return KernelWriteTracker()
    except OSError as error:
        logger.warning(
            "the kernel cannot tell which weights were written (%s), so all their bytes are compared before each call;"
            " options={'untracked_weights': 'sample'} compares a few, and may miss a change of a few elements",
            error,
        )
        return SampledFingerprint()
