"""An open session on one daemon, and the weights it keeps resident there."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.weights.weights import ResidentWeights


@dataclass(frozen=True)
class Connection:
    """An open session and the weights it keeps resident."""

    endpoint: str
    session: Session
    weights: ResidentWeights

    @property
    def alive(self) -> bool:
        """Whether compiled calls may go through it."""
        return self.session.alive

    def close(self) -> None:
        """End the session and stop watching its weights. Closing twice is fine."""
        if self.session.attachment.liveness.inherited:
            return
        with self.session.lock:
            self.weights.close()
        self.session.close()
