"""The stages, most valuable first: what each checks, within which time, what runs it. Imports torch in a run only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dynamo_genie.bench.gpu_check.outcome import Outcome
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.errors import OptionError

REHEARSAL_TIMES = 4
"""A rehearsal has so much more time than a GPU would need: a CPU is slow, and is not lent by the minute."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        letter: What chooses it.
        name: In a word.
        what: What it checks.
        limit_s: The seconds that it may take.
        run: Checks it, on any scale, in a process of its own.
    """

    letter: str
    name: str
    what: str
    limit_s: float
    run: Callable[[Scale, Outcome], None]


def _tokens(scale: Scale, outcome: Outcome) -> None:
    from dynamo_genie.bench.gpu_check.tokens import check_tokens

    check_tokens(scale, outcome)


def _tests(scale: Scale, outcome: Outcome) -> None:
    from dynamo_genie.bench.gpu_check.device_tests import run_device_tests

    run_device_tests(scale, outcome)


def _decode(scale: Scale, outcome: Outcome) -> None:
    from dynamo_genie.bench.gpu_check.decode_steps import check_decode_steps

    check_decode_steps(scale, outcome)


def _upload(scale: Scale, outcome: Outcome) -> None:
    from dynamo_genie.bench.gpu_check.upload import check_upload

    check_upload(scale, outcome)


def _modes(scale: Scale, outcome: Outcome) -> None:
    from dynamo_genie.bench.gpu_check.modes import measure_modes

    measure_modes(scale, outcome)


STAGES = (
    Stage("a", "tokens", "tokens equal to local eager's: Static and Dynamic caches, eager and cudagraphs", 60, _tokens),
    Stage("b", "tests", "pytest -m gpu: pool, pinned ring, streams, offloading, device loss", 90, _tests),
    Stage("c", "decode", "decode steps with weights made on the device, against the memory's floor", 120, _decode),
    Stage("d", "upload", "upload of a model, and a second session that binds it", 40, _upload),
    Stage("e", "modes", "modes but naive, tokens compared", 50, _modes),
)


def rehearsed(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return stages with the time that a rehearsal has for them."""
    return tuple(replace(stage, limit_s=REHEARSAL_TIMES * stage.limit_s) for stage in stages)


def chosen_stages(text: str, stages: tuple[Stage, ...] = STAGES) -> tuple[Stage, ...]:
    """Return the stages that letters such as `a,c` or `ac` name, in the order of the table; all for no letters.

    Raises:
        OptionError: A letter names none.
    """
    letters = [letter for letter in text.lower() if letter not in ", "]
    known = {stage.letter: stage for stage in stages}
    if unknown := [letter for letter in dict.fromkeys(letters) if letter not in known]:
        listed = ", ".join(f"{stage.letter} ({stage.name})" for stage in stages)
        raise OptionError(f"STAGES={text}: there is no stage {', '.join(map(repr, unknown))}; there are {listed}")
    return tuple(stage for stage in stages if not letters or stage.letter in letters)


def seconds_in(text: str, stages: tuple[Stage, ...]) -> float:
    """Return the budget: the seconds that a text says, or what these stages may take together.

    Raises:
        OptionError: It is no positive number.
    """
    if not text:
        return sum(stage.limit_s for stage in stages)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise OptionError(f"BUDGET={text}: write the seconds that all stages together may take, such as BUDGET=240")
    return seconds
