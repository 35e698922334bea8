"""The functions beside the backend, before anything is connected."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.child_process import child_environment
from dynamo_genie.errors import OptionError
from dynamo_genie.options import resolve_options
from dynamo_genie.runtime.session.counters import Counters


def test_dir_names_what_users_call_and_nothing_else() -> None:
    assert set(dynamo_genie.__all__) <= set(dir(dynamo_genie))
    assert [n for n in dir(dynamo_genie) if n not in dynamo_genie.__all__ and not n.startswith("__")] == []
    code = "import sys, dynamo_genie; dir(dynamo_genie); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment(os.environ)
    )
    assert done.stdout == "False\n"


def test_what_is_no_model_or_no_options_has_a_named_error() -> None:
    with pytest.raises(OptionError, match=r"refresh\(\) takes the model .* not 3"):
        dynamo_genie.refresh(3)  # type: ignore[arg-type]
    for options in (5, "daemons", ["daemons"], 0):
        with pytest.raises(OptionError, match="options must be a dict"):
            resolve_options(options, {})  # type: ignore[arg-type]
    with pytest.raises(BackendCompilerFailed, match="options must be a dict") as caught:
        torch.compile(torch.sin, backend=genie, options=5)(torch.ones(2))  # type: ignore[arg-type]
    assert isinstance(caught.value.inner_exception, OptionError)


def test_every_figure_is_there_before_anything_is_connected() -> None:
    dynamo_genie.shutdown()
    dynamo_genie.reset_stats()
    found = dynamo_genie.stats()
    total = {**Counters().snapshot(), "live_handles": 0, "client_calls": 0}
    assert found == {"total": total, "daemons": {}, "client_operators": {}}
