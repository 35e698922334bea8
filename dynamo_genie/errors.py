"""Every error the project raises on purpose, in one tree. Imports nothing but the standard library.

The first line of each message stands alone: Dynamo shows it inside `BackendCompilerFailed`.
"""


class GenieError(Exception):
    """Root of the tree; catch it to catch everything the project raises on purpose."""


class OptionError(GenieError, ValueError):
    """An option is unknown or its value cannot be used; the message names the known ones."""


class DaemonUnavailable(GenieError, ConnectionError):
    """No daemon answered, or the one in use went away; start it again or check the endpoint."""


class SessionLost(DaemonUnavailable):
    """The worker or the lease behind a session went away while something waited for it; the message says how.

    With `recovery="replay"` this is raised only where no worker could take its place. Compiled functions connect again
    at their next call; tensors that lived there raise `StaleHandleError` from then on.
    """


class RequestTimeout(DaemonUnavailable, TimeoutError):
    """The daemon is there but did not answer in time; raise `request_timeout_s` if the work is long."""


class ProtocolError(GenieError):
    """The other side sent something that the protocol does not allow; versions or software differ."""


class VersionMismatch(ProtocolError):
    """Client and daemon share no protocol version; install the same release on both sides."""


class AuthenticationError(GenieError, PermissionError):
    """The daemon refused the key, or none was given where one is needed (`genie keygen`, `key_file`)."""


class QuotaExceeded(GenieError):
    """A limit of the session or the daemon was reached; free something or raise the limit."""


class ModelFileError(GenieError, RuntimeError):
    """A model that a daemon should read is not there, or its files are no good; the message says how."""


class ProgramQuarantined(GenieError):
    """A program ended several workers, so the daemon does not run it any more until it is restarted."""


class ProgramCancelled(GenieError):
    """A result was not computed because Ctrl-C ended the wait for it; compute it again if you want it."""

    def __init__(self, message: str = "not computed, for Ctrl-C ended the wait for it; compute it again") -> None:
        super().__init__(message)


class UnsupportedOperator(GenieError, NotImplementedError):
    """A graph holds an operator that is not in the table of allowed ones; the message names it.

    Attributes:
        what: What it is that no daemon runs, in a few words.
    """

    def __init__(self, message: str = "", what: str = "") -> None:
        super().__init__(message)
        self.what = what or message


class StaleHandleError(GenieError, RuntimeError):
    """A remote tensor was used after its session ended, in another process, or where a call would write into a copy.

    The message says what ended the session (daemon restarted, worker died, lease ran out); compute the tensor again.
    """


class NotRecoverable(StaleHandleError):
    """A remote tensor lived in a worker that ended, and could not be computed again; the message says why."""


class NoMemoryHere(GenieError, RuntimeError):
    """Code would have touched the memory of a result that lives in a daemon; bring it here with `to_local` first."""


class RemoteError(GenieError, RuntimeError):
    """The daemon failed in a way that eager PyTorch has no class for; carries the remote traceback."""


class EngineWarning(UserWarning):
    """A program runs eager in the daemon, though another engine was wanted; results are the same, time is not."""


class ClientOperatorWarning(UserWarning):
    """An operator that no daemon runs runs on the client, between parts that stay remote; results are the same."""
