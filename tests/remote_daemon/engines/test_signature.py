"""The signature of a call: equal where one compiled form serves both, and only there."""

from __future__ import annotations

import math

import pytest
import torch

from dynamo_genie.remote_daemon.engines.signature import signature_of

SAME = [(1, 1), (0.5, 0.5), (math.nan, float("nan")), (torch.ones(2), torch.zeros(2))]
OTHERS = [
    (0.0, -0.0),
    (1, 1.0),
    (1, True),
    (torch.ones(2), torch.ones(3)),
    (torch.ones(2, 2), torch.ones(2, 2).t()),
    (torch.ones(2), torch.ones(2, dtype=torch.int64)),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_form_serves(one: object, other: object) -> None:
    assert signature_of([one], [0]) == signature_of([other], [0])


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_each_wants_a_form_of_its_own(one: object, other: object) -> None:
    assert signature_of([one], [0]) != signature_of([other], [0])
