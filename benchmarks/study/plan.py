"""What a run of the study measures, before it is measured: groups of members that are compared with one another."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from dynamo_genie.bench.study.training_modes import TRAINING_MODES, Task, training_modes_of
from dynamo_genie.modes import MODES

ALL_MODES = tuple(MODES)
MODELS = ("gpt2", "bert-base", "vit-base", "clip", "llama-1b", "gptj-6b")
TRAINED = MappingProxyType({"124m": ("gpt2", "gpt2-96"), "tiny": ("tiny-gpt2", "tiny-gpt2-96")})
"""By `--size`: the model whose steps are measured, and the one that shows what an operator costs."""
NARROW_STEPS = 10
"""Of the latter in a repeat: they are short."""
UNSHAPED = "0ms"
"""The network without a rate or a delay of its own."""


@dataclass(frozen=True)
class Member:
    """One row of each phase.

    Attributes:
        mode: A name in `MODES`, or of training in `TRAINING_MODES`.
        placement: `blind` or `semantic` where there are several daemons; empty otherwise.
    """

    mode: str
    placement: str = ""

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.mode}/{self.placement}" if self.placement else self.mode


@dataclass(frozen=True)
class Group:
    """Members that do the same work in turns, the first of which is `local`, whose answers are the right ones.

    Attributes:
        network: As `parse_network` reads it.
        model: A name in `workloads.WORKLOADS`.
        prompt: Tokens of the prompt.
        members: `local` first.
        daemons: How many daemons a member spreads its graphs over, each on a host of its own.
        sessions: How many clients of a member work at the same time, on the same daemon; `local` is always one.
        task: Inference, or training steps of compiled or of eager code.
        batch: Rows of a training step.
        steps: Of a repeat, where they are others than the protocol's; 0 where not.
    """

    network: str
    model: str
    prompt: int
    members: tuple[Member, ...]
    daemons: int = 1
    sessions: int = 1
    task: Task = "inference"
    batch: int = 1
    steps: int = 0

    def is_remote(self, member: Member) -> bool:
        """Whether a member has a daemon."""
        return (MODES if self.task == "inference" else TRAINING_MODES)[member.mode].remote


@dataclass(frozen=True)
class Protocol:
    """What is the same for all groups of a run.

    Attributes:
        steps: Decode steps, or passes of an encoder, of a repeat.
        repeats: Measured repeats.
        warm_ups: Repeats before, which compile everything.
        seed: Of weights and prompts.
        dtype: Of the weights.
        device: Of the daemons: cpu, cuda or cuda:N.
        daemon: A daemon that runs already, for two real machines; empty to start one for each member.
    """

    steps: int = 5
    repeats: int = 3
    warm_ups: int = 2
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    daemon: str = ""


def members_of(modes: tuple[str, ...] = ALL_MODES) -> tuple[Member, ...]:
    """Return a member for each mode, `local` first whether or not it is among them."""
    return tuple(Member(mode) for mode in ("local", *(mode for mode in modes if mode != "local")))


def training_groups(
    networks: tuple[str, ...], size: str, batch: int, prompt: int, modes: tuple[str, ...]
) -> list[Group]:
    """Return what `genie bench training` measures: compiled and eager steps on each network, operators on the last.

    Args:
        networks: As `parse_network` reads them.
        size: A name in `TRAINED`.
        batch: Rows of a step.
        prompt: Tokens of a row.
        modes: Of `TRAINING_MODES`.
    """
    whole, narrow = TRAINED[size]

    def group(network: str, model: str, task: Task, names: tuple[str, ...], steps: int = 0) -> Group:
        members = members_of(training_modes_of(task, names))
        return Group(network, model, prompt, members, task=task, batch=batch, steps=steps)

    without_wrapper = tuple(name for name in modes if name != "wrapped")
    found = [group(name, whole, task, without_wrapper) for name in networks for task in ("train", "train-eager")]
    return [*found, group(networks[-1], narrow, "train-eager", modes, NARROW_STEPS)]
