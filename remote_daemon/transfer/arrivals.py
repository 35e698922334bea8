"""Arrivals, the tensors that other workers send to one session: announced, complete, failed. Shared by the two threads.

The bulk thread fills it, the executor takes from it. When the executor finds something missing, the arrivals
remember what it waits for, and wake it when that is there: nobody is woken for what nobody waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.upload import Upload
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.record import brief
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import require_dense, spec_nbytes

Key: TypeAlias = "tuple[int, int]"
"""Numbers of a link and of a transfer."""

MAX_FAILED = 16_384
MAX_FAILED_WHOLE = 64
MAX_GIVEN_UP = 4_096
MAX_CUT = 512
"""Links that are gone and still remembered, the last ones; a wait for an older one ends with its own time limit."""


@dataclass(frozen=True)
class ArrivedTensor:
    """A complete tensor: its description and its bytes in memory order."""

    spec: TensorSpec
    upload: Upload


class Arrivals:
    """The arrivals of one session that were not taken yet."""

    def __init__(self, staging: Staging, traffic: PeerTraffic, wake: Callable[[], None]) -> None:
        self.staging = staging
        self._traffic = traffic
        self._wake = wake
        self._lock = threading.Lock()
        self._announced: dict[Key, m.TensorBegin] = {}
        self._complete: set[Key] = set()
        self._failed: dict[Key, m.ErrorInfo] = {}
        self._cut: dict[int, m.ErrorInfo] = {}
        self._links: dict[int, str] = {}
        self._given_up: dict[Key, None] = {}  # in order, as a set is not
        self._awaited: Key | None = None

    # --- the bulk thread -------------------------------------------------------------------------------------

    def note_link(self, link: int, description: str) -> None:
        """Remember how a link stands, for the error of somebody who waits for it in vain."""
        with self._lock:
            self._links[link] = description

    def begin(self, link: int, tensor: m.TensorBegin) -> None:
        """Reserve room for a tensor; take it whole when it is all there.

        Raises:
            ProtocolError: The number is in use, or the description does not fit the bytes.
            QuotaExceeded: There is no room, or its receiver gave up waiting.
        """
        key = (link, tensor.transfer)
        nbytes = spec_nbytes(tensor.spec)
        require_dense(tensor.spec, len(tensor.data) or nbytes)
        with self._lock:
            if key in self._given_up:
                raise QuotaExceeded(f"tensor {tensor.transfer} came after its receiver gave up waiting for it")
        upload = self.staging.begin(key, nbytes)
        with self._lock:
            self._announced[key] = m.TensorBegin(tensor.transfer, tensor.spec, tensor.kind)
        if len(tensor.data) == nbytes:
            upload.view[:] = tensor.data
            self.complete(link, tensor.transfer)

    def complete(self, link: int, transfer: int) -> None:
        """Say that every byte has arrived."""
        key = (link, transfer)
        with self._lock:
            announced = self._announced.get(key)
            if announced is None:
                return
            self._traffic.count_received(announced.kind, spec_nbytes(announced.spec))
            self.staging.finish(key)
            self._complete.add(key)
            wanted = self._awaited == key
        if wanted:
            self._wake()

    def fail(self, link: int, transfer: int, error: m.ErrorInfo) -> None:
        """Say that a tensor will not come, and why."""
        key = (link, transfer)
        with self._lock:
            self._announced.pop(key, None)
            self._complete.discard(key)
            self.staging.abort(key)
            if len(self._failed) < MAX_FAILED:
                self._failed[key] = error if len(self._failed) < MAX_FAILED_WHOLE else brief(error)
            wanted = self._awaited == key
        if wanted:
            self._wake()

    def cut(self, link: int, error: m.ErrorInfo) -> None:
        """Say that nothing more comes through a link; what is complete stays."""
        with self._lock:
            self._cut[link] = error
            self._links.pop(link, None)
            if len(self._cut) > MAX_CUT:
                del self._cut[next(iter(self._cut))]
            for key in [key for key in self._announced if key[0] == link and key not in self._complete]:
                del self._announced[key]
                self.staging.abort(key)
            wanted = self._awaited is not None and self._awaited[0] == link
        if wanted:
            self._wake()

    @property
    def awaited_link(self) -> int:
        """The link that the executor waits for; 0 when it waits for none."""
        awaited = self._awaited
        return awaited[0] if awaited is not None else 0

    # --- the executor ----------------------------------------------------------------------------------------

    def take(self, link: int, transfer: int) -> ArrivedTensor | m.ErrorInfo | None:
        """Return a tensor or why it will not come; None when it is still to come, and then wake the executor."""
        key = (link, transfer)
        with self._lock:
            self._awaited = None
            if key in self._complete:
                self._complete.discard(key)
                return ArrivedTensor(self._announced.pop(key).spec, self.staging.claim(key))
            if key in self._failed:
                return self._failed.pop(key)
            if link in self._cut:
                return self._cut[link]
            self._awaited = key
            return None

    def why_missing(self, link: int, timeout_s: float) -> str:
        """Say what was waited for and what to check."""
        state = self._links.get(link, f"link {link}, which no daemon was announced for")
        return f"no tensor came within {timeout_s:g} s through {state} (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"

    def give_up(self, link: int, transfer: int) -> None:
        """Wait no longer for a tensor; should it come after all, it is refused."""
        key = (link, transfer)
        with self._lock:
            self._awaited = None
            self._announced.pop(key, None)
            self._complete.discard(key)
            self.staging.abort(key)
            self._given_up[key] = None
            if len(self._given_up) > MAX_GIVEN_UP:
                del self._given_up[next(iter(self._given_up))]
