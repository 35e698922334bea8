"""What a run of the study measures, before it is measured: groups of members that are compared with one another."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.modes import MODES

ALL_MODES = tuple(MODES)
MODELS = ("gpt2", "bert-base", "vit-base", "clip", "llama-1b", "gptj-6b")
UNSHAPED = "0ms"
"""The network without a rate or a delay of its own."""


@dataclass(frozen=True)
class Member:
    """One row of each phase.

    Attributes:
        mode: A name in `MODES`.
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
    """

    network: str
    model: str
    prompt: int
    members: tuple[Member, ...]
    daemons: int = 1
    sessions: int = 1


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
