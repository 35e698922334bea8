"""The staging of uploads: on their way in, or finished and to be claimed. Shared by the bulk and executor threads."""

from __future__ import annotations

import threading
from typing import TypeAlias

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.host_memory import Allocate, allocate_host
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.session_share import SessionShare
from dynamo_genie.remote_daemon.memory.upload import Upload

MAX_UPLOADS = 16_384
"""Unclaimed uploads that one session may hold."""

UPLOAD_NBYTES = 1_500
"""What an upload costs beside its bytes."""


UploadKey: TypeAlias = "int | tuple[int, int]"
"""An upload of the client by its number, or a tensor of another worker by the numbers of its link and itself."""


class Staging:
    """The uploads of one session."""

    def __init__(self, budget: MemoryBudget, allocate: Allocate = allocate_host, share: float = 1.0) -> None:
        """Hold nothing yet; `allocate` returns host memory, flat, uint8, for so many bytes.

        Args:
            budget: Where uploads count.
            allocate: Makes room for one.
            share: The part of it that this session may have.
        """
        self.share = SessionShare.of(budget.limit, share)
        self._budget = budget
        self._allocate = allocate
        self._lock = threading.Lock()
        self._open: dict[UploadKey, Upload] = {}
        self._finished: dict[UploadKey, Upload] = {}
        self._closed = False

    def begin(self, upload_id: UploadKey, nbytes: int) -> Upload:
        """Reserve memory for an upload.

        Raises:
            QuotaExceeded: The memory limit or the number of uploads would be passed.
            ProtocolError: The number is in use.
        """
        with self._lock:
            if self._closed or upload_id in self._open or upload_id in self._finished:
                raise ProtocolError(f"upload {upload_id} exists already")
            if len(self._open) + len(self._finished) >= MAX_UPLOADS:
                raise QuotaExceeded(f"more than {MAX_UPLOADS} uploads wait to be used")
            self._reserve(nbytes)
            try:
                memory = self._allocate(nbytes)
            except (RuntimeError, OSError, MemoryError) as error:
                self._release(nbytes)
                raise QuotaExceeded(f"no memory for an upload of {nbytes:,} bytes: {error}") from None
            upload = Upload(nbytes, memory, memory.numpy().data)
            (self._open if nbytes else self._finished)[upload_id] = upload
            return upload

    def find(self, upload_id: UploadKey) -> Upload | None:
        """Return an upload that is still open."""
        with self._lock:
            return self._open.get(upload_id)

    def finish(self, upload_id: UploadKey) -> None:
        """Make a complete upload claimable."""
        with self._lock:
            upload = self._open.pop(upload_id, None)
            if upload is not None:
                self._finished[upload_id] = upload

    def abort(self, upload_id: UploadKey) -> None:
        """Forget an upload and its memory."""
        with self._lock:
            upload = self._open.pop(upload_id, None) or self._finished.pop(upload_id, None)
            if upload is not None:
                self._release(upload.nbytes)

    def claim(self, upload_id: UploadKey) -> Upload:
        """Hand a finished upload over; its bytes stop counting as staged.

        Raises:
            ProtocolError: No such upload has finished.
        """
        with self._lock:
            upload = self._finished.pop(upload_id, None)
            if upload is None:
                raise ProtocolError(f"upload {upload_id} is unknown or not complete")
            self._release(upload.nbytes)
            return upload

    def close(self) -> None:
        """Forget everything; later uploads are refused."""
        with self._lock:
            self._closed = True
            for upload in (*self._open.values(), *self._finished.values()):
                self._release(upload.nbytes)
            self._open.clear()
            self._finished.clear()

    def _reserve(self, nbytes: int) -> None:
        self.share.require(nbytes, "an upload")
        self._budget.reserve(nbytes, f"an upload of {nbytes:,} bytes")
        try:
            self._budget.reserve_overhead(UPLOAD_NBYTES, "an upload")
        except QuotaExceeded:
            self._budget.release(nbytes)
            raise
        self.share.staged += nbytes

    def _release(self, nbytes: int) -> None:
        self.share.staged -= nbytes
        self._budget.release(nbytes)
        self._budget.release_overhead(UPLOAD_NBYTES)
