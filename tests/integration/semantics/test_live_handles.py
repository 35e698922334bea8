"""`stats()["live_handles"]`: the remote tensors that the program still names, and nothing else."""

from __future__ import annotations

import gc

import torch

import dynamo_genie
from tests.integration.conftest import Compile


def test_models_that_were_dropped_leave_nothing_behind(compiled: Compile) -> None:
    for _ in range(5):
        model = torch.nn.Linear(4, 4)
        with torch.no_grad():
            result = compiled(model)(torch.randn(2, 4))
        assert dynamo_genie.stats()["total"]["live_handles"] == 1
        del model, result
        torch._dynamo.reset()
        gc.collect()
        assert dynamo_genie.stats()["total"]["live_handles"] == 0
