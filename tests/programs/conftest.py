"""Makes torchvision importable beside a build of torch that its own operators were not built for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SHAPES_WITHOUT_OPERATORS = ("nms", "qnms")
"""Operators of torchvision that it gives shape rules even where its C++ part is missing."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare them where PyPI's torchvision, which is built for CUDA, stands beside a CPU build of torch.

    Its C++ operators do not load there. It bears that, but the shape rules make it, and what imports it, fail.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(found.origin).parent / "_C.so"))
    except OSError:
        for name in SHAPES_WITHOUT_OPERATORS:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
