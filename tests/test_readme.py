"""What the documents promise: the example runs as it stands, links lead somewhere, the options are all there."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from dynamo_genie.options import Options

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_first_example_of_the_readme_runs() -> None:
    if not entry_points(group="torch_dynamo_backends", name="genie"):
        pytest.skip("dynamo_genie is not installed here, so torch does not know the name 'genie'")
    example = blocks(ROOT / "README.md", "python")[0]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"tensor\(\[(\d, ){3}\d\]\)\n", done.stdout), done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_readme_names_every_option_with_its_variable() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \| `GENIE_(\w+)` \|", text, re.MULTILINE))
    assert rows == {(field.name, field.name.upper()) for field in dataclasses.fields(Options)}


def test_the_readme_names_every_error_a_user_may_meet() -> None:
    from dynamo_genie import errors

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [name for name, value in vars(errors).items() if isinstance(value, type) and name.isidentifier()]
    assert [name for name in names if f"`{name}`" not in text and f"errors.{name}`" not in text] == []
