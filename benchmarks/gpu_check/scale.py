"""On what the stages run: models of real size on a GPU, or tiny ones on the CPU in a rehearsal of the same code."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.engines import CUDAGRAPHS, EAGER
from dynamo_genie.modes import MODES


@dataclass(frozen=True)
class ModesRun:
    """A run of `genie bench modes`: a name in `workloads.WORKLOADS`, and a dtype."""

    model: str
    dtype: str


@dataclass(frozen=True)
class Scale:
    """What the stages run on.

    Attributes:
        device: Of daemons, and of what they are compared with.
        judged: Whether times are held against their targets.
        small: The model whose tokens must be equal, in float32.
        new_tokens: How many it generates.
        pairs: With which caches and engines.
        large: The models whose decode steps are timed, the most important one first.
        uploaded: The model that is sent to a daemon.
        dtype: Of those.
        prompt: Tokens of all prompts.
        steps: Timed decode steps of each way.
        studies: What runs in these modes.
        modes: Every one but `naive`, or some of them.
    """

    device: str
    judged: bool
    small: str
    new_tokens: int
    pairs: tuple[tuple[str, str], ...]
    large: tuple[str, ...]
    uploaded: str
    dtype: str
    prompt: int
    steps: int
    studies: tuple[ModesRun, ...]
    modes: tuple[str, ...]

    @property
    def rehearsal(self) -> bool:
        """Whether the CPU stands in for a GPU."""
        return self.device == "cpu"


REAL = Scale(
    device="cuda",
    judged=True,
    small="gpt2",
    new_tokens=32,
    pairs=(("static", CUDAGRAPHS), ("dynamic", EAGER), ("static", EAGER), ("dynamic", CUDAGRAPHS)),
    large=("gptj-6b", "llama-1b"),
    uploaded="gptj-6b",
    dtype="float16",
    prompt=128,
    steps=50,
    studies=(ModesRun("gpt2", "float32"), ModesRun("gptj-6b", "float16")),
    modes=tuple(mode for mode in MODES if mode != "naive"),
)
REHEARSAL = Scale(
    device="cpu",
    judged=False,
    small="tiny-gpt2",
    new_tokens=4,
    pairs=(("static", CUDAGRAPHS), ("dynamic", EAGER)),
    large=("tiny-gptj", "tiny-llama"),
    uploaded="tiny-gptj",
    dtype="float32",
    prompt=16,
    steps=4,
    studies=(ModesRun("tiny-gptj", "float32"),),
    modes=("local", "semantic"),
)
