"""The attachment of a session to its worker: what let it in, and the ways there. A session outlives its attachments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dynamo_genie.errors import SessionLost
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.attachment.transport import BulkTransport, Transport
from dynamo_genie.runtime.wire import messages as m


@dataclass(frozen=True)
class Attachment:
    """An attachment to one worker.

    Attributes:
        welcome: What the daemon let the session in with.
        control: Carries commands and answers.
        bulk: Carries whatever is large, and what is said about links.
        liveness: What ended the attachment, if anything did.
        release: Gives up the lease and closes both transports; called once or more often.
        server_public: The key of the worker's sockets; empty where they have none.
    """

    welcome: m.Welcome
    control: Transport
    bulk: BulkTransport
    liveness: Liveness
    release: Callable[[], None]
    server_public: str = ""

    def close(self) -> None:
        """End the attachment; again, or in a forked child, does nothing."""
        if self.liveness.inherited:
            return
        self.liveness.end(
            SessionLost("this process closed it: dynamo_genie.shutdown(), or a new session took its place")
        )
        self.release()
