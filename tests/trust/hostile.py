"""A client that keeps no rule of the protocol but its form: it posts what it is told to and reads when it likes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from dynamo_genie.runtime.connect.admission import Admission
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import keys_for_worker
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES

WAIT_MS = 60_000


class HostileClient:
    """One session of a daemon. `control` and `bulk` are its sockets."""

    def __init__(self, endpoint: str, key_file: Path | None = None) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        keys = load_client_keys(str(key_file)) if key_file is not None else None
        self._admission = Admission.open(endpoint, keys=keys, connect_timeout_s=60.0, on_lost=lambda error: None)
        welcome = self._admission.welcome
        self._keys = keys_for_worker(keys, welcome)
        self.control, self.bulk = self._connect(welcome.control), self._connect(welcome.bulk)
        for socket in (self.control, self.bulk):
            socket.send(codec.encode(m.Attach(1, welcome.session, welcome.token)))
            assert socket.poll(WAIT_MS), "the worker did not let us in"
            socket.recv()
        self._numbers = itertools.count(1)
        self._sequence = itertools.count(1)

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.sndhwm = socket.rcvhwm = 1
        socket.setsockopt(zmq.RCVBUF, 1 << 16)
        if self._keys is not None:
            socket.curve_publickey = self._keys.public.encode()
            socket.curve_secretkey = self._keys.secret.encode()
            socket.curve_serverkey = self._keys.server_public.encode()
        socket.connect(endpoint)
        return socket

    def number(self) -> int:
        """Return one that this session has not used."""
        return next(self._numbers)

    def post(self, *commands: m.Command) -> None:
        """Send commands and read nothing."""
        self.control.send(codec.encode(m.Batch(next(self._sequence), commands)))

    def hear(self, wanted: Callable[[Any], object], limit_ms: int = WAIT_MS) -> Any:
        """Read answers up to one that is wanted."""
        while True:
            assert self.control.poll(limit_ms), "no answer"
            message = codec.worker_to_client(self.control.recv())
            if wanted(message):
                return message

    def ask(self, command: m.Command) -> Any:
        """Post a request and return its answer."""
        self.post(command)
        return self.hear(lambda answer: answer.request_id == command.request_id)  # type: ignore[union-attr]

    def sync(self) -> Any:
        return self.ask(m.Sync(self.number()))

    def register(self, program: p.Program, engine: str = "auto") -> int:
        """Return the number of a program, which may be refused."""
        number, encoded = self.number(), p.encode_program(program)
        digest = p.program_digest(encoded)
        if len(encoded) < CHUNK_NBYTES // 2:
            self.post(m.RegisterProgram(number, digest, encoded, 0, engine))
        else:
            self.post(m.RegisterProgram(number, digest, b"", self.upload(encoded), engine))
        return number

    def call(self, program: int, *inputs: Any, results: int = 1) -> list[int]:
        """Post a call and return the handles of its results."""
        handles = [self.number() for _ in range(results)]
        self.post(m.Call(program, 0, inputs, tuple(handles)))
        return handles

    def upload(self, data: bytes) -> int:
        """Send bytes and return the number of the upload, once it is complete."""
        number = self.number()
        self.bulk.send(codec.encode(m.UploadBegin(number, len(data))))
        for offset in range(0, len(data), CHUNK_NBYTES):
            self.bulk.send_multipart([codec.encode(m.Chunk(number, offset)), data[offset : offset + CHUNK_NBYTES]])
        while True:
            assert self.bulk.poll(WAIT_MS), "the upload was not taken"
            answer = codec.bulk_to_client(self.bulk.recv())
            if isinstance(answer, m.BulkFailed):
                raise AssertionError(answer.message)
            if isinstance(answer, m.UploadDone):
                return number

    def close(self) -> None:
        self._admission.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> HostileClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Resident:
    """The resident memory of a process as the kernel counts it: what there was at first, and the peak since."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.before = self._field("VmRSS")

    def forget_peak(self) -> None:
        """Count the peak from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def grown(self) -> int:
        """Bytes by which the peak passed what there was at first."""
        return self._field("VmHWM") - self.before

    def _field(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(f"{name}:"))
