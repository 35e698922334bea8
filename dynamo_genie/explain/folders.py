"""Where dumps go: folders that never overwrite one another, and an early word when they cannot be made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from dynamo_genie.errors import OptionError
from dynamo_genie.options import Options
from dynamo_genie.torch_internals.compile_context import debug_folder


def dump_roots(options: Options, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the folders in which dumps are wanted: the one that is given, and torch's own debug tree.

    Raises:
        OptionError: One of them cannot be written.
    """
    roots = [Path(options.debug_dir).absolute()] if options.debug_dir else []
    if environ.get("TORCH_COMPILE_DEBUG") == "1":  # as torch._dynamo.utils.setup_compile_debug reads it
        roots.append(Path(debug_folder()) / "genie")
    for root in roots:
        _require_writable(root)
    return tuple(roots)


def new_folder(root: Path, name: str) -> Path:
    """Make and return `root/name`, or `root/name_2` and so on: no two graphs or processes share a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = root / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def replace_text(path: Path, text: str) -> None:
    """Write a file so that who reads it meanwhile sees the old text or the new one, whole."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise OptionError(
            f"debug_dir {str(root)!r} cannot be written: {error.strerror or error}; name another folder "
            "(debug_dir, GENIE_DEBUG_DIR)"
        ) from None
