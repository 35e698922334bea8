"""temporary"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_reports(paths: Sequence[Path]) -> None:
    """Print."""
    print(paths)
