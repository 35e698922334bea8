"""Where a training run of the study keeps its model, by mode. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Task = Literal["inference", "train", "train-eager"]
"""What a group does: prefill, decode or encode; or training steps of compiled code, or of eager code."""


@dataclass(frozen=True)
class TrainingMode:
    """One mode of training a model.

    Attributes:
        name: What `--modes` calls it.
        remote: Whether anything runs in a daemon.
        resident: Whether parameters, gradients and the optimizer's state live there.
        tasks: What it is measured in.
    """

    name: str
    remote: bool
    resident: bool
    tasks: tuple[Task, ...]


TRAINING_MODES = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            TrainingMode("local", False, False, ("train", "train-eager")),
            TrainingMode("naive", True, False, ("train",)),
            TrainingMode("wrapped", False, False, ("train-eager",)),
            TrainingMode("resident", True, True, ("train", "train-eager")),
        )
    }
)
"""By name. `local` compiles with `aot_eager`, `naive` a CPU model with `genie`, `resident` one on the device; `wrapped`
puts every operator through a `__torch_dispatch__` that does nothing, in this process."""


def training_modes_of(task: Task, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those modes of some that a task is measured in, in the order of tables; `local` is always one."""
    return tuple(mode.name for mode in TRAINING_MODES.values() if task in mode.tasks and mode.name in ("local", *names))
