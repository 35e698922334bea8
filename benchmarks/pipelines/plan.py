"""What `genie bench pipelines` measures: settings, and the ways in which each is computed. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dynamo_genie.errors import OptionError

Phase = Literal["prefill", "vision"]
Layout = Literal["", "gathered", "spread"]

PROMPTED = ("gpt2-8k", "llama-100m")
SEEING = ("vit-base", "resnet-50", "convnext-tiny")
TINY = ("tiny-gpt2", "tiny-llama", "tiny-vit", "tiny-resnet", "tiny-convnext")
PHASES: MappingProxyType[str, Phase] = MappingProxyType(
    {
        **dict.fromkeys((*PROMPTED, *TINY[:2]), "prefill"),
        **dict.fromkeys((*SEEING, *TINY[2:]), "vision"),
    }
)
"""By model: what a call of it is."""


@dataclass(frozen=True)
class CallWay:
    """One way to compute a call.

    Attributes:
        mode: `one`, a daemon alone; with two daemons the value of the option `pipeline`, `off` or `auto`.
        layout: Where the caches of a prompt end: `gathered` where daemons have room for the whole model, `spread` where
            none has; empty where there is no choice.
    """

    mode: str
    layout: Layout = ""

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.mode}/{self.layout}" if self.layout else self.mode

    @property
    def daemons(self) -> int:
        """How many it uses."""
        return 1 if self.mode == "one" else 2


WAYS: MappingProxyType[Phase, tuple[CallWay, ...]] = MappingProxyType(
    {
        "prefill": (CallWay("one"), CallWay("auto", "gathered"), CallWay("off", "spread"), CallWay("auto", "spread")),
        "vision": (CallWay("one"), CallWay("auto")),
    }
)
"""The first one's answers are the right ones. With `off`, two daemons that have room for the model are as one."""


@dataclass(frozen=True)
class Setting:
    """Ways that are measured in turns.

    Attributes:
        network: As `parse_network` reads it.
        model: A name in `PHASES`.
        rows: Tokens of the prompt, or images of the batch.
        tokens: How many are decoded after the prompt, to compare them and the caches; 0 for none.
        watched: Whether one more call is watched, to compare it with what was foretold of it.
        ways: `one` first.
    """

    network: str
    model: str
    rows: int
    tokens: int
    watched: bool
    ways: tuple[CallWay, ...]

    @property
    def phase(self) -> Phase:
        """What a call is."""
        return PHASES[self.model]

    @property
    def spread(self) -> bool:
        """Whether it needs daemons that have no room for the whole model."""
        return any(way.layout == "spread" for way in self.ways)


@dataclass(frozen=True)
class Repeats:
    """How often each way is taken, and with what.

    Attributes:
        measured: Calls that count, of each way.
        warm_ups: Calls before, which compile, place and upload everything.
        seed: Of weights, prompts and images.
        dtype: Of the weights.
    """

    measured: int = 3
    warm_ups: int = 1
    seed: int = 0
    dtype: str = "float32"


def settings_of(
    networks: Sequence[str],
    models: Iterable[str],
    prompts: Sequence[int],
    batch: int,
    tokens: int,
    layouts: Sequence[str],
) -> list[Setting]:
    """Return what is measured, network by network; on the first one calls are watched, and the longest prompt goes on.

    Raises:
        OptionError: A name is unknown.
    """
    _refuse_unknown("--models", models := list(models), PHASES)
    _refuse_unknown("--layouts", layouts, ("gathered", "spread"))
    found = []
    for network in networks:
        for model in models:
            phase = PHASES[model]
            ways = tuple(way for way in WAYS[phase] if way.layout in ("", *layouts))
            for rows in prompts if phase == "prefill" else (batch,):
                first, longest = network == networks[0], phase == "vision" or rows == max(prompts)
                decoded = tokens if phase == "prefill" and first and longest else 0
                found.append(Setting(network, model, rows, decoded, first and longest, ways))
    return found


def _refuse_unknown(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := [name for name in names if name not in (known := tuple(known))]:
        raise OptionError(f"{option}: {', '.join(unknown)} unknown; there are {', '.join(known)}")
