"""What recovery asks of a session, and of its way to tell a worker what it told; it knows no queues and no sockets."""

from __future__ import annotations

from typing import Protocol

from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.lending import Lockable
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.recovery.replay import Make, Replay
from dynamo_genie.runtime.wire import messages as m


class Telling(Protocol):
    """How a worker that knows nothing is told what its session told."""

    def begin(self) -> None:
        """Tell of programs, weights and bindings."""

    def repeat(self, step: m.Command | Make) -> None:
        """Tell one step."""

    def flush(self) -> None:
        """Send what was told."""

    def settle(self) -> None:
        """Wait until it was done."""

    def finish(self, replay: Replay) -> None:
        """Tell the rest, once all steps were done."""

    def mint(self) -> int:
        """Return a fresh id."""


class Recoverable(Lockable, Protocol):
    """A session."""

    @property
    def recovery(self) -> Recovery[Attachment] | None:
        """What it can go on with; None where it ends with its worker."""

    @property
    def retelling(self) -> Telling:
        """How a worker is told."""

    @property
    def attachment(self) -> Attachment:
        """What leads to its worker at present."""

    @property
    def timeout_s(self) -> float:
        """The limit of one wait."""

    def begin_again(self, attachment: Attachment) -> None:
        """Go on over an attachment to a worker that knows nothing."""

    def recovered(self) -> None:
        """Note that this worker knows all."""

    def give_up_sources(self) -> None:
        """Wait for nothing more from workers that are gone."""

    def save(self) -> None:
        """Have recent small results here, where others have sent something that they may be computed from."""
