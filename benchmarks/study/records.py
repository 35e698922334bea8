"""What a run of the study leaves behind: one JSON document, from which every table and plot is made.

Times are in seconds, sizes in bytes. Raw samples are kept, so that a statistic can be added without a new run.
"""

from __future__ import annotations

import os
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from dynamo_genie.bench.machine import describe_machine
from dynamo_genie.bench.network.spec import NetworkShape
from dynamo_genie.errors import GenieError

SCHEMA = 1
"""Raised when a reader of older documents would misread newer ones."""


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the kernel counted on the client's interface while the samples of a row were taken.

    Attributes:
        sent_bytes: Bytes that left the client, frame headers included.
        received_bytes: Bytes that came to it, likewise.
        sent_packets: Packets that left.
        received_packets: Packets that came.
        overhead_bytes: Of all these bytes, the headers of Ethernet, IP and TCP, and ZeroMQ's framing.
        background_bytes: Of all these bytes, leases: what keeps idle sessions alive.
    """

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    overhead_bytes: int
    background_bytes: int

    @property
    def payload_bytes(self) -> int:
        """What the calls of the row moved, by the kernel's count."""
        return self.sent_bytes + self.received_bytes - self.overhead_bytes - self.background_bytes


class Foretold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one call that daemons shared, from its beginning until the last part ended.

    Attributes:
        parts: How many parts it has.
        predicted_s: By the cost model alone.
        simulated_s: By the same simulation, with the time that each part was measured to take.
        ran_s: Measured in that very call.
    """

    parts: int
    predicted_s: float
    simulated_s: float
    ran_s: float


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One mode in one phase under one setting, with every sample.

    Attributes:
        mode: `local`, `naive`, `remote_cache`, `handle`, `semantic`; for peers the peer's name; in training `local`,
            `naive`, `wrapped`, `resident`; of pipelines `one` for a daemon alone, `off` and `auto` for two; predicted,
            how many daemons.
        phase: `prefill`, `decode`, `encode` or `vision`; `after`, the wait until daemons are done with one of these;
            `train` or `train-eager`, training steps of compiled and of eager code.
        model: Its name.
        dtype: Of its weights.
        device: What computed: `cpu` or the name of the GPU.
        network: Name of a `NetworkShape` of the study.
        prompt: Tokens in the prompt; the cache's length when the first decode step begins; in training, of a row.
        seconds: For each repeat, the time of each step (one for a prefill).
        sent: Bytes from the client by tensor class, over all samples.
        received: Bytes to it, likewise.
        peer_bytes: Bytes from daemon to daemon by tensor class, over all samples.
        wire: The kernel's count; None where the client had no interface of its own.
        busy_s: Time in which the executor computed, over all samples; None for what has no executor.
        gpu_utilisation: Mean of NVML's utilisation over the samples, 0 to 1; None without a GPU.
        client_peak_bytes: Largest resident memory of the client's process.
        daemon_peak_bytes: Largest resident memory of the daemon's worker; None without a daemon.
        daemon_gpu_peak_bytes: Largest memory that the worker held on the GPU; None without one.
        placement: `blind`, `semantic` or empty where there is one daemon; of pipelines `gathered` or `spread`, where
            caches end.
        sessions: Clients at the same time.
        session_seconds: With several sessions, for each session the time of all its steps; empty otherwise.
        steps: Steps in all samples (of every session): what sums of bytes are divided by.
        batch: Rows in the batch.
        operators: How many operators eager code runs in a step; 0 where they were not counted.
        foretold: What the cost model foretold of one more call; None where none was watched, or nothing was shared.
        void: Why the row counts for nothing, such as tokens that differ from local; empty for a good row.
    """

    mode: str
    phase: str
    model: str
    dtype: str
    device: str
    network: str
    prompt: int
    seconds: tuple[tuple[float, ...], ...]
    steps: int
    sent: dict[str, int] = {}
    received: dict[str, int] = {}
    peer_bytes: dict[str, int] = {}
    wire: Wire | None = None
    busy_s: float | None = None
    gpu_utilisation: float | None = None
    client_peak_bytes: int | None = None
    daemon_peak_bytes: int | None = None
    daemon_gpu_peak_bytes: int | None = None
    placement: str = ""
    sessions: int = 1
    session_seconds: tuple[float, ...] = ()
    batch: int = 1
    operators: int = 0
    foretold: Foretold | None = None
    void: str = ""

    @property
    def setting(self) -> tuple[object, ...]:
        """What rows have alike that are compared with one another."""
        return self.phase, self.model, self.dtype, self.network, self.prompt, self.batch, self.sessions


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was not measured, and why."""

    what: str
    reason: str


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run of one experiment.

    Attributes:
        experiment: The command's name, such as `modes` or `kv-length`.
        command: How it was started.
        started: When, in UTC, as ISO 8601.
        seed: Of weights and prompts.
        repeats: How often each row was asked to be measured.
        complete: False until the last repeat is in: a run that was killed leaves False, and its rows so far.
        machine: Its processor, cores, kernel, GPU; versions of Python and of the packages.
        networks: Each network that rows name.
        rows: In the order in which tables show them.
        gaps: What a reader would miss.
    """

    experiment: str
    command: str
    started: str
    seed: int
    repeats: int
    complete: bool
    machine: dict[str, str | int | float]
    networks: tuple[NetworkShape, ...]
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...] = ()
    schema: int = SCHEMA


def begun_study(
    experiment: str,
    seed: int,
    repeats: int,
    networks: tuple[NetworkShape, ...] = (),
    gaps: tuple[Gap, ...] = (),
    command: str = "",
) -> Study:
    """Return the document of a run that begins now, without rows.

    It was started by `command`, by default this process's command line.
    """
    arguments = sys.argv[1:]
    arguments = arguments[arguments.index(experiment) :] if experiment in arguments else [experiment, *arguments]
    return Study(
        experiment=experiment,
        command=command or shlex.join(["genie", "bench", *arguments]),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seed=seed,
        repeats=repeats,
        complete=False,
        machine=describe_machine(),
        networks=networks,
        rows=(),
        gaps=gaps,
    )


def write_study(path: Path, study: Study) -> None:
    """Replace a document in one go: whoever reads it, or kills us, finds the old one or the new one, both whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(study), indent=1) + b"\n")
    new.replace(path)


def read_study(path: Path) -> Study:
    """Read a document.

    Raises:
        GenieError: There is none, or it is not one that this version reads.
    """
    try:
        study = msgspec.json.decode(path.read_bytes(), type=Study)
    except OSError as error:
        raise GenieError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise GenieError(f"{path} is not a document of the study: {error}") from None
    if study.schema != SCHEMA:
        raise GenieError(f"{path} has schema {study.schema}, and this version reads {SCHEMA}")
    return study
