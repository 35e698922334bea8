"""Of which programs it is known that they give the same bits again."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.errors import NotRecoverable
from dynamo_genie.runtime.recovery.steady import UNSTEADY, why_unsteady
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import OPERATORS
from tests.runtime.recovery.test_histories import ADD, History


def test_the_unsteady_operators_are_in_the_table() -> None:
    assert {key.rpartition(".")[0] for key in OPERATORS} >= UNSTEADY


def test_a_program_is_steady_by_its_operators_its_engine_and_the_device() -> None:
    node = p.Node("aten.cumsum.default", (p.Ref(0), 0))
    sums = p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (node,), (p.Ref(1),))
    assert why_unsteady(sums, "auto", "cpu") == ""
    assert "aten.cumsum.default" in why_unsteady(sums, "auto", "cuda")
    assert why_unsteady(ADD, "auto", "cuda") == ""
    assert "inductor" in why_unsteady(ADD, "inductor", "cpu")


def test_another_kind_of_device_computes_nothing_again_and_has_what_came_from_here() -> None:
    history = History(1)
    session, workers = history.session, history.workers
    one = session.put(torch.ones(3, 3))
    [two] = history.call(ADD, one, one)
    session.sync()
    workers.device_name = "another one"
    workers.kill()
    assert session.fetch([one.id], ["output"])[0].shape == (3, 3)
    with pytest.raises(NotRecoverable, match="the next worker computes on another one with torch"):
        session.fetch([two.id], ["output"])
    session.close()
    workers.alive.close()
