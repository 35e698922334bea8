from __future__ import annotations

import re
from pathlib import Path

from dynamo_genie.runtime.wire.version import PROTOCOLS, negotiate

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_two_sides_agree_on_the_newest_version_that_both_speak() -> None:
    assert negotiate((1, 2, 3), known=(2, 3, 4)) == 3
    assert negotiate((5, 2), known=(1, 2)) == 2


def test_two_sides_that_share_no_version_agree_on_none() -> None:
    assert negotiate((1, 2), known=(3, 4)) is None
    assert negotiate(()) is None


def test_the_page_describes_the_version_that_the_code_speaks() -> None:
    heading = re.match(r"# Wire protocol, version (\d+)\n", PAGE)
    assert heading is not None and int(heading[1]) == max(PROTOCOLS) == PROTOCOLS[-1]
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == list(range(1, PROTOCOLS[-1] + 1))
