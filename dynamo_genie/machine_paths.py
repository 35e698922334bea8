"""Text for clients without this machine's paths: where Python lies, who its users are, what stands in its file system.

Files of Python's keep their place below `sys.path` (`torch/_ops.py`), so that a traceback is worth as much; of others
the last name is left. Paths of other machines (PyTorch's sources, as its own messages name them) are left alone.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

WHOLE_ERRORS = "GENIE_WHOLE_ERRORS"
"""The environment variable by which a daemon tells its workers to show paths: `genie daemon --debug`."""

TOP_FOLDERS = frozenset(
    "bin boot dev etc gnu home lib lib32 lib64 media mnt nix opt private proc root run sbin snap srv sys tmp usr var "
    "Applications Library System Users Volumes".split()
)
_NAME = r"[\w.+@%=,~-]+"
_PATH = re.compile(rf"(?<![\w/.~-])/({_NAME})((?:/{_NAME})+)/?")
_QUOTED = re.compile(r"""(["'])/([^"'\n/]+)((?:/[^"'\n/]+)+)/?\1""")


def for_clients(text: str) -> str:
    """Return text as a client may see it: without paths, unless the daemon was told to show them."""
    return text if os.environ.get(WHOLE_ERRORS) == "1" else without_paths(text, *_here())


def without_paths(text: str, roots: Iterable[str], top_folders: frozenset[str] = TOP_FOLDERS) -> str:
    """Return text with paths below `roots` relative to them, and of other paths of a machine the last name only."""
    if "/" not in text:
        return text
    below = "|".join(re.escape(root) for root in sorted(roots, key=len, reverse=True))
    if below:
        text = re.sub(rf"(?<![\w/.~-])(?:{below})/", "", text)

    def last_name(found: re.Match[str]) -> str:
        *quote, top, rest = found.groups()
        mark = "".join(quote)
        return f"{mark}.../{rest.rpartition('/')[2]}{mark}" if top in top_folders else found[0]

    return _PATH.sub(last_name, _QUOTED.sub(last_name, text))


@cache
def _here() -> tuple[frozenset[str], frozenset[str]]:
    """Return the places of Python's on this machine, and the names of the folders at its root that hold something."""
    places = [*sys.path, sys.prefix, sys.base_prefix]
    roots = {form for place in places if place.startswith("/") for form in (place.rstrip("/"), os.path.realpath(place))}
    others = [*roots, tempfile.gettempdir(), str(Path.home()), str(Path.cwd()), sys.executable]
    return frozenset(roots - {"", "/"}), TOP_FOLDERS | {place.split("/")[1] for place in others if "/" in place[:1]}
