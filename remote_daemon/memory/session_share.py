"""The share of one session in a worker's memory, so that no session can take all of it. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.errors import QuotaExceeded


@dataclass(eq=False)
class SessionShare:
    """What one session may have, and has.

    Where device and host share their memory, tensors and uploads have one share; else each has its own.

    Attributes:
        resident: Bytes of tensors; the executor's alone.
        staged: Bytes of uploads that are on their way or wait to be used; the staging's, under its lock.
    """

    limit: int
    fraction: float
    resident: int = 0
    staged: int = 0

    @classmethod
    def of(cls, limit: int, fraction: float) -> SessionShare:
        """Return a share of so many bytes of a worker's."""
        return cls(int(limit * fraction), fraction)

    def require(self, nbytes: int, what: str) -> None:
        """Raise unless `nbytes` more are within the share; takes nothing. Of a whole share the worker's limit says so.

        Raises:
            QuotaExceeded: They are not.
        """
        taken = self.resident + self.staged
        if self.fraction < 1.0 and taken + nbytes > self.limit:
            raise QuotaExceeded(
                f"{what} needs {nbytes:,} bytes but this session has {taken:,} of {self.limit:,}, its share "
                f"of the worker; free tensors or start the daemon with more than --session-share {self.fraction:g}"
            )
