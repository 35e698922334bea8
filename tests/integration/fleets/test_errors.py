"""An error on one daemon poisons what another one computes from it, and nothing else there; it is told once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import dynamo_genie
from tests.integration.fleets.fleets import Fleet, fleet_of

GOOD, BAD = torch.tensor([1]), torch.tensor([9])


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


def _look_up(ids: Tensor) -> Tensor:
    return functional.embedding(ids, torch.arange(8.0).view(4, 2))


def _on(fleet: Fleet, daemon: int, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function for one of the daemons."""
    endpoint = fleet.endpoints[daemon]
    return torch.compile(function, backend="genie", options={"daemons": [endpoint], **options})


def _fails(use: Callable[[], object]) -> str:
    with pytest.raises(IndexError, match="index out of range") as caught:
        use()
    return str(caught.value)


def test_an_error_goes_with_its_tensor_from_daemon_to_daemon(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    first, second = _on(fleet, 0, _look_up), _on(fleet, 1, lambda i: _look_up(i) * 2)
    here, there = first(GOOD), second(GOOD)
    bad = first(BAD)
    mixed = bad.expand(2, 2) + torch.cat([there, there])
    with caplog.at_level(logging.WARNING):
        assert (here + there).tolist() == [[6.0, 9.0]]
        assert there.tolist() == [[4.0, 6.0]]
        told = [record for record in caplog.records if "nothing has read" in record.getMessage()]
        assert len(told) <= 1, "the session in which it came up says so, and only that"
        message = _fails(mixed.tolist)
        assert "functional.embedding(ids, torch.arange(8.0)" in message
        assert "in call" in message
    dynamo_genie.synchronize()
    _fails(bad.tolist)


def test_what_is_written_with_an_error_of_another_daemon_is_spoiled(fleet: Fleet) -> None:
    bad, base = _on(fleet, 0, _look_up)(BAD), _on(fleet, 1, _look_up)(torch.tensor([0, 1]))
    kept = base[1]
    base[0].add_(bad[0])
    _fails(base.tolist)
    assert kept.tolist() == [2.0, 3.0]


def test_synchronize_asks_every_daemon_and_raises_what_was_called_first(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    pick, look_up = _on(fleet, 0, lambda i: torch.ones(3).gather(0, i)), _on(fleet, 1, _look_up)
    pick(GOOD), look_up(GOOD)
    first, second = look_up(BAD), pick(torch.tensor([7]))  # the first one in the session that was opened last
    with caplog.at_level(logging.WARNING):
        _fails(dynamo_genie.synchronize)
    [told] = [record for record in caplog.records if "failed in a daemon" in record.getMessage()]
    assert "index 7 is out of bounds" in told.getMessage()
    dynamo_genie.synchronize()
    _fails(first.tolist)
    with pytest.raises(RuntimeError, match="index 7 is out of bounds"):
        second.tolist()


def test_a_graph_that_is_spread_raises_late_or_at_once(fleet: Fleet) -> None:
    table, weight = torch.nn.Embedding(4, 8), torch.randn(8, 8)

    def run(ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return table(ids) @ weight, (x @ weight).relu()

    x = torch.randn(2, 8)
    for errors in ("late", "immediate"):
        torch._dynamo.reset()
        call = fleet.compile(run, placement="blind", placement_seed=3, errors=errors)
        with torch.no_grad():
            assert [r.tolist() for r in call(GOOD, x)] == [r.tolist() for r in run(GOOD, x)]
            if errors == "immediate":
                _fails(lambda call=call: call(BAD, x))
            else:
                _fails(call(BAD, x)[0].tolist)
            assert [r.tolist() for r in call(GOOD, x)] == [r.tolist() for r in run(GOOD, x)]
        dynamo_genie.synchronize()
