"""Counts which of PyTorch's own samples give on `remote_accelerator` what they give on the CPU. Knows no sample.

Each is run on both; what the CPU refuses says nothing of the device and is not counted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import dynamo_genie
from dynamo_genie.device.register import register_device
from tests.integration.device.parts import Part, part_of
from tests.integration.torch_samples.table import Attempt, NoReference, first_failure

DEVICE = "remote_accelerator:0"


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that moves its arguments to the device, and runs there."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = tree_map(_moved, (arguments, keywords))
        return function(*arguments, **keywords)

    return call


def _moved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    return torch.device(DEVICE) if value == torch.device("cpu") or value == "cpu" else value


def wrong_of(title: str, entries: Mapping[str, Iterable[Attempt]], share: float, known: Mapping[str, str]) -> list[str]:
    """Run entries, and print how many differ; return what is not as it should be.

    Args:
        title: What they are.
        entries: The samples of each, by name.
        share: How many of those that run on the CPU must be right.
        known: The names of those that differ, and why; these must differ.
    """
    differ: dict[str, str] = {}
    silent = set()
    for name, attempts in entries.items():
        try:
            found = first_failure(attempts, DEVICE)
        except NoReference:
            silent.add(name)
            continue
        if found is not None:
            differ[name] = found
    ran = len(entries) - len(silent)
    right = 1 - len(differ) / ran
    print(f"{title}: {ran - len(differ)} of {ran} as on the CPU ({right:.2%})", flush=True)
    return [
        *(f"{name} in {title}: {why}" for name, why in differ.items() if name not in known),
        *(
            f"{name} in {title} is known to differ, and does not"
            for name in sorted(known.keys() & entries.keys() - differ.keys() - silent)
        ),
        *([f"{title}: fewer than {share:.0%} are right"] if right < share else []),
    ]


def main(run: Callable[[str, Part], list[str]]) -> NoReturn:
    """Run what the command line names, or all; ends the process, with a status of 0 where nothing is wrong."""
    register_device()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    part, titles = part_of(sys.argv[1:])
    wrong = [line for title in titles for line in run(title, part)]
    print("\n".join(wrong), flush=True)
    dynamo_genie.shutdown()
    sys.exit(min(len(wrong), 100))
