"""What the documents promise: the example runs as it stands, links lead somewhere, the options are all there."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from dynamo_genie.child_process import child_environment
from dynamo_genie.engines import ENGINES
from dynamo_genie.options import Options
from dynamo_genie.runtime.wire import bulk_messages, messages

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


FRAMEWORKS = re.findall(
    r"^```python frameworks(?:: ([^\n]*))?\n(.*?)^```",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
"""What each example of the section on frameworks needs beside torch, and its code."""

CALLED = """
import dynamo_genie
calls = dynamo_genie.stats()["total"]["calls"]
assert calls, "nothing ran in the daemon"
"""


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_first_example_of_the_readme_runs() -> None:
    if not entry_points(group="torch_dynamo_backends", name="genie"):
        pytest.skip("dynamo_genie is not installed here, so torch does not know the name 'genie'")
    example = blocks(ROOT / "README.md", "python")[0]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"tensor\(\[(\d, ){3}\d\]\)\n", done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)  # importing and compiling take a minute on a busy machine
@pytest.mark.parametrize(("needed", "code"), FRAMEWORKS, ids=[needed or "torch" for needed, _ in FRAMEWORKS])
def test_the_examples_of_frameworks_run_in_the_daemon(needed: str, code: str, tmp_path: Path) -> None:
    for package in filter(None, needed.split(", ")):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed, which this example is about: pip install {package}")
    done = subprocess.run(
        [sys.executable, "-c", f"import torch\n{code}{CALLED}"],
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
        cwd=tmp_path,
        env=child_environment(os.environ),
    )
    assert done.returncode == 0, done.stderr


def test_the_section_on_frameworks_has_an_example_of_each() -> None:
    assert {needed for needed, _ in FRAMEWORKS} == {
        "", "transformers", "transformers, accelerate", "transformers, peft", "lightning", "timm"
    }  # fmt: skip
    for _, code in FRAMEWORKS:
        compile(code, "README.md", "exec")


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


@pytest.mark.parametrize("conversations", [messages, bulk_messages], ids=["control", "bulk"])
def test_the_specification_of_the_wire_names_every_message(conversations: object) -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    spoken = {message for union in vars(conversations).values() for message in get_args(union) if is_message(message)}
    assert len(spoken) > 10
    assert sorted(each.__name__ for each in spoken if not re.search(rf"\b{each.__name__}\b", text)) == []


def is_message(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, messages.Message)


def test_the_page_of_engines_has_a_row_for_each() -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)`", text.partition("\n## ")[0], re.MULTILINE) == list(ENGINES)
