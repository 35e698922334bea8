from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch

from dynamo_genie.machine_paths import WHOLE_ERRORS, for_clients, without_paths

ROOTS = ("/opt/py/lib/python3.11/site-packages", "/opt/py/lib/python3.11", "/opt/py", "/home/my name/project")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "/opt/py/lib/python3.11/site-packages/torch/_ops.py", line 3', 'File "torch/_ops.py", line 3'),
        ('File "/opt/py/lib/python3.11/json/__init__.py", line 3', 'File "json/__init__.py", line 3'),
        ('File "/home/my name/project/a/b.py", line 3', 'File "a/b.py", line 3'),
        ('File "/home/some body/x y/b.py", line 3', 'File ".../b.py", line 3'),
        ("/usr/lib/libcuda.so.1: cannot open shared object file", ".../libcuda.so.1: cannot open shared object file"),
        ("Command: g++ /tmp/torchinductor_root/a/b.cpp -o /tmp/x/b.so", "Command: g++ .../b.cpp -o .../b.so"),
        ("[Errno 2] No such file: '/var/lib/it'", "[Errno 2] No such file: '.../it'"),
        ("(/etc/passwd), /root/.ssh/id_rsa; file:/proc/1/environ", "(.../passwd), .../id_rsa; file:.../environ"),
        ("a /home/me/ b", "a .../me b"),
    ],
)
def test_paths_of_a_machine_become_relative_or_a_last_name(text: str, expected: str) -> None:
    assert without_paths(text, ROOTS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        "1/2/3 or n/m, and /",
        "and/or, /tmp alone",
        'at "/__w/pytorch/pytorch/aten/src/ATen/native/BatchLinearAlgebra.cpp":1642',
        "cannot connect to ipc:///tmp/genie-1/genie or tcp://host/usr/lib",
        "../../usr/lib/x and torch/opt/py/x",
    ],
)
def test_other_text_is_left_alone(text: str) -> None:
    assert without_paths(text, ROOTS) == text


def shown(monkeypatch: pytest.MonkeyPatch, setting: str) -> str:
    monkeypatch.setenv(WHOLE_ERRORS, setting)
    try:
        torch.mm(torch.ones(2), Path("/nowhere/at/all").read_bytes())  # type: ignore[arg-type]
    except OSError as error:
        return for_clients("".join(traceback.format_exception(error)))
    raise AssertionError


def test_a_traceback_of_this_machine_says_nothing_of_it_unless_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [sys.prefix, sys.base_prefix, tempfile.gettempdir(), str(Path.home()), str(Path(__file__).parents[2])]
    text = shown(monkeypatch, "0")
    assert "tests/dynamo_genie/test_machine_paths.py" in text or "test_machine_paths.py" in text
    assert "pathlib" in text
    assert "in read_bytes" in text
    assert not any(f"{place}{os.sep}" in text for place in places)
    assert __file__ in shown(monkeypatch, "1")
