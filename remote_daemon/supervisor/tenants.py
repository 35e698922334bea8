"""Tenants, and the worker of each on each device: none, starting, ready or backing off. Pure; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo_genie.remote_daemon.supervisor.events import WorkerId
from dynamo_genie.remote_daemon.supervisor.watchdog import Watchdog
from dynamo_genie.runtime.wire import messages as m

FIRST_BACK_OFF_S = 0.25
MAX_BACK_OFF_S = 5.0  # far below the patience of a client that connects
STABLE_AFTER_S = 10.0
PAUSE_OF_STARTS = 4.0
"""The longest pause after workers that served and died young, in times that their start took."""

DIED = "DaemonUnavailable"
"""The code of a failure to start that the worker itself said nothing about."""


@dataclass
class Waiting:
    """A client that was promised an answer once the worker is ready."""

    peer: bytes
    hello: m.Hello | m.OpenDevice


@dataclass
class Tenant:
    """One tenant on one device, and its worker there. `key` is its public key, empty for the one without keys."""

    key: str
    device: int = 0
    worker: WorkerId | None = None
    pid: int = 0
    worker_key: str = ""
    ready: m.WorkerReady | None = None
    waiting: list[Waiting] = field(default_factory=list)
    started_at: float = 0.0
    start_s: float = 0.0
    ready_at: float = 0.0
    failures: int = 0
    failure: m.WorkerFailed | None = None
    restart_at: float | None = None
    last_words: str = ""
    watchdog: Watchdog | None = None

    @property
    def state(self) -> str:
        """Return the state for people: ready, starting, failed or stopped."""
        if self.worker is not None:
            return "ready" if self.ready else "starting"
        return "failed" if self.failure else "stopped"

    def starting(self, worker: WorkerId) -> None:
        """Note that a process is being started."""
        self.worker, self.pid, self.ready, self.restart_at, self.last_words = worker, 0, None, None, ""
        self.watchdog = None

    def started(self, pid: int, worker_key: str, now: float) -> None:
        """Note that there is a process."""
        self.pid, self.worker_key, self.started_at = pid, worker_key, now

    def became_ready(self, ready: m.WorkerReady, now: float, operator_timeout_s: float = 0.0) -> None:
        """Note that the worker can serve, and is watched from now on."""
        self.ready, self.ready_at, self.failure = ready, now, None
        self.start_s = now - self.started_at
        self.watchdog = Watchdog(now, operator_timeout_s)

    def exited(self, how: str, now: float, *, blameless: bool = False) -> None:
        """Note that the process is gone and when to start the next: at once, unless the last ones died young.

        One that served and then was killed by somebody else, `blameless`, did not die of anything that comes again.
        """
        was_ready, self.worker, self.ready, self.watchdog = self.ready is not None, None, None, None
        self.failures = 0 if was_ready and (blameless or now - self.ready_at >= STABLE_AFTER_S) else self.failures + 1
        if not was_ready and self.failure is None:
            self.failure = m.WorkerFailed(DIED, f"the worker died while it started ({how})")
        self.restart_at = now + self._back_off_s(was_ready=was_ready)

    def _back_off_s(self, *, was_ready: bool) -> float:
        if self.failures <= int(was_ready):
            return 0.0
        longest = MAX_BACK_OFF_S
        if was_ready:
            longest = min(longest, max(FIRST_BACK_OFF_S, PAUSE_OF_STARTS * self.start_s))
        return min(FIRST_BACK_OFF_S * 2.0 ** min(self.failures - 1, 16), longest)

    def take_waiting(self) -> list[Waiting]:
        """Return those who wait for the worker, and forget them."""
        waiting, self.waiting = self.waiting, []
        return waiting
