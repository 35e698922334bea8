"""What the study's runner and its client processes say to each other: one JSON document a line, each order answered."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from dynamo_genie.bench.study.training_modes import Task


class Setup(msgspec.Struct, frozen=True, tag=True):
    """Build a model, compile it in a mode, and repeat the work until nothing is compiled any more.

    Attributes:
        mode: A name in `dynamo_genie.modes.MODES`, or of training in `training_modes.TRAINING_MODES`.
        options: Other options of the backend.
        model: A name in `workloads.WORKLOADS`.
        dtype: Of its weights: float32, float16 or bfloat16.
        device: Where the model lives: cpu, or cuda for `local` beside a GPU's daemon.
        prompt: Tokens of the prompt.
        steps: Decode steps, or forward passes of an encoder, of a repeat.
        seed: Of weights and prompt.
        warm_ups: Repeats that are not measured.
        own_interfaces: Whether this host is a network namespace of the study.
        task: Inference, or how to train.
        batch: Rows of a training step.
    """

    mode: str
    options: dict[str, str | list[str]]
    model: str
    dtype: str
    device: str
    prompt: int
    steps: int
    seed: int
    warm_ups: int
    own_interfaces: bool
    task: Task = "inference"
    batch: int = 1


class Repeat(msgspec.Struct, frozen=True, tag=True):
    """Do the work once and measure it.

    Attributes:
        start_at: When to begin, on this machine's monotonic clock; 0 for at once.
        lease_ports: Ports at which supervisors are reached from this host: those of every member of the group.
    """

    start_at: float = 0.0
    lease_ports: tuple[int, ...] = ()


Order: TypeAlias = Setup | Repeat


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is compiled.

    Attributes:
        phases: What a repeat consists of.
        device: What computes.
        workers: Process ids of the daemons' workers.
        parameters: How many the model has.
        operators: How many operators eager code runs in a step; 0 where they were not counted.
    """

    phases: tuple[str, ...]
    device: str
    workers: tuple[int, ...]
    parameters: int
    operators: int = 0


class MeasuredPhase(msgspec.Struct, frozen=True):
    """One phase of one repeat.

    Attributes:
        seconds: Of each step.
        sent, received: Bytes by tensor class.
        framing: Bytes of ZeroMQ's framing, both ways.
        peer_bytes: Bytes from daemon to daemon by tensor class.
        wire: What the interfaces of this host counted: bytes sent and received, packets sent and received; empty where
            it has no interface of its own.
        keep_alive_bytes: Heartbeats and leases among them.
        began: When the first step did, on this machine's monotonic clock.
        wall_s: From then to the last step's end.
        busy_s: Time in which daemons computed, or this process did where there is none.
    """

    seconds: tuple[float, ...]
    sent: dict[str, int]
    received: dict[str, int]
    framing: int
    peer_bytes: dict[str, int]
    wire: tuple[int, ...]
    keep_alive_bytes: int
    began: float
    wall_s: float
    busy_s: float


class RepeatDone(msgspec.Struct, frozen=True, tag=True):
    """A repeat.

    Attributes:
        phases: In the order of `Ready.phases`.
        answer: What the program read: the tokens, or an encoder's output as the bits of its numbers.
        peak_bytes: Largest resident memory of this process since it was set up.
    """

    phases: tuple[MeasuredPhase, ...]
    answer: tuple[int, ...]
    peak_bytes: int


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """The order could not be carried out."""

    error: str


ClientAnswer: TypeAlias = Ready | RepeatDone | Trouble
