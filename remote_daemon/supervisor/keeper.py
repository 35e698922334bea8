"""The keeper: a process that starts the supervisor again when that dies. It does nothing else, so little can end it.

    genie daemon (the keeper) --- supervisor --- workers

Each is killed by the kernel with the one before it. The keeper opens no socket and starts no thread: the supervisor is
a fork of it, which starts as quickly the tenth time as the first.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import FrameType

from dynamo_genie.remote_daemon.channel.parent import die_with_parent
from dynamo_genie.remote_daemon.supervisor.worker_process import describe_exit

logger = logging.getLogger(__name__)

MAX_DEATHS = 5
WITHIN_S = 60.0
FIRST_PAUSE_S = 0.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Serve = Callable[[str, Callable[[str], None]], int]
"""Serves at an endpoint until told to end, calls back with the endpoint that it really has, returns the exit code."""


class Keeper:
    """Runs `serve` in a process of its own, again and again at the same endpoint, until it ends in good order.

    What never became ready is not started again: its error stands in the log, and its exit code is the keeper's.
    """

    def __init__(self, serve: Serve, listen: str) -> None:
        self._serve = serve
        self._listen = listen
        self._was_ready = False
        self._child = 0
        self._stop_signal = 0
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Return the exit code for this process, which may be a supervisor's by then."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._pass_on)
        while True:
            news = self._fork()
            if self._child == 0:
                return self._serve(self._listen, partial(self._announce, news))
            self._hear(news)
            code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
            self._child = 0
            if code == 0 or not self._was_ready or self._stop_signal:
                return self._exit_code(code)
            if not self._may_start_again(code):
                return 1

    def _fork(self) -> int:
        """Become two processes; return the end of a pipe between them. `_child` is 0 in the supervisor."""
        keeper = os.getpid()
        news_read, news_write = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._child = os.fork()
        if self._child == 0:
            os.close(news_read)
            os.setsid()  # Ctrl-C in the terminal is for the keeper, which passes it on
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(keeper)
        else:
            os.close(news_write)
            if self._stop_signal:  # it came before there was anybody to pass it on to
                os.kill(self._child, self._stop_signal)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return news_write if self._child == 0 else news_read

    def _announce(self, news: int, endpoint: str) -> None:
        """Say in the supervisor that it can serve: to the user the first time, to the keeper always."""
        if not self._was_ready:
            sys.stdout.write(f"ready {endpoint}\n")
            sys.stdout.flush()
        os.write(news, endpoint.encode())
        os.close(news)

    def _hear(self, news: int) -> None:
        """Wait until the supervisor can serve, or has ended."""
        with os.fdopen(news, "rb") as file:
            endpoint = file.read().decode()
        if endpoint:
            self._listen, self._was_ready = endpoint, True

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stop_signal = number
        if self._child:
            os.kill(self._child, number)
        os.write(self._wake_write, b"s")

    def _exit_code(self, code: int) -> int:
        if self._stop_signal and code == -self._stop_signal:
            return 0  # it was told to end before it could do so in good order
        return code if code >= 0 else 128 - code

    def _may_start_again(self, code: int) -> bool:
        """Say what happened and pause; return whether to go on."""
        now = time.monotonic()
        how = describe_exit(code)
        if len(self._deaths) == MAX_DEATHS and now - self._deaths[0] < WITHIN_S:
            logger.critical("the supervisor died (%s), %d times in %g s; giving up", how, MAX_DEATHS + 1, WITHIN_S)
            return False
        recent = sum(now - death < WITHIN_S for death in self._deaths)
        self._deaths.append(now)
        pause_s = FIRST_PAUSE_S * 2.0**recent
        logger.error("the supervisor died (%s); another one starts at %s in %.1f s", how, self._listen, pause_s)
        select.select([self._wake_read], [], [], pause_s)
        return True
