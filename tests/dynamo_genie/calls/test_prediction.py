"""What a call will move, said before it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dynamo_genie.calls.prediction import predict_call
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from tests.dynamo_genie.calls.stub_daemon import Called, graph_of

Bytes = Mapping[str, int]


def two_results(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x + 1, y + 1


def predict(called: Called, *args: Any, stepped: bool = False) -> tuple[Bytes, Bytes]:
    if not called.placement.bound:
        called.placement.bind(args, called.plan)
        called.session.flush()
    return predict_call(called.placement, called.plan, called.shapes, args, stepped=stepped)


def called_with(function: Callable[..., Any], *args: torch.Tensor, **more: Any) -> Called:
    return Called(graph_of(function, *args), **more)


def sent(x: torch.Tensor, **more: Any) -> Bytes:
    return predict(called_with(lambda x: x + 1, x, **more), x)[0]


def test_a_remote_input_costs_its_number_alone() -> None:
    x = torch.ones(3)
    called = called_with(two_results, x, x.clone())
    low = called.remote(x)
    called.session.identity.ids.last = 70_000
    high = called.remote(x)
    once, twice = predict(called, low, low)[0], predict(called, low, high)[0]
    assert twice["control"] - once["control"] == 4  # a tag and four bytes instead of one
    assert set(once) == {"control"}


def test_a_session_that_has_counted_further_pays_more_for_its_numbers() -> None:
    x = torch.ones(3)
    few, many = (
        predict(called_with(two_results, x, x.clone(), ids=ids), x, x)[0]["control"] for ids in (1_000, 100_000)
    )
    assert many - few == 4 * 2  # the program, its binding and two results


def test_a_mask_packs_and_token_ids_do_less() -> None:
    mask = sent(torch.ones(1, 512, dtype=torch.int64))["input"]
    tokens = sent(torch.randint(50_257, (1, 512)))["input"]
    counting = sent(torch.arange(512)[None])["input"]
    assert mask < 64 < counting < tokens < 512 * 8 // 2


def test_floats_travel_as_they_are() -> None:
    assert sent(torch.ones(3, 5))["input"] == 60


def test_a_large_input_goes_in_chunks() -> None:
    nbytes = 10 * CHUNK_NBYTES
    x = torch.ones(nbytes // 4)
    sent, received = predict(called_with(lambda x: x + 1, x), x)
    assert sent["input"] == nbytes
    assert 0 < received["control"] < 100


def test_what_comes_back_is_counted_under_its_class() -> None:
    x = torch.ones(4, 4)
    _, received = predict(called_with(lambda x: x + 1, x, gradients=[0]), x)
    assert received["gradient"] == 64
    assert 0 < received["control"] < 64


def test_what_comes_back_in_bulk_is_counted_too() -> None:
    x = torch.ones(CHUNK_NBYTES)
    _, received = predict(called_with(lambda x: x + 1, x, gradients=[0]), x)
    assert received["gradient"] == 4 * CHUNK_NBYTES


def test_random_numbers_cost_the_generators_state_both_ways_and_leave_it_alone() -> None:
    x, state = torch.ones(4), torch.get_rng_state()
    called = called_with(torch.nn.functional.dropout, x)
    state = torch.get_rng_state()
    sent, received = predict(called, x)
    assert min(sent["control"], received["control"]) > 5056
    assert max(sent["control"], received["control"]) < 5200
    assert torch.equal(torch.get_rng_state(), state)


def test_an_optimizer_that_stepped_costs_the_trained_weights_again() -> None:
    weight, x = torch.ones(600, 600, requires_grad=True), torch.ones(600)
    called = called_with(lambda w, x: w.detach() @ x, weight, x, resident=[0])
    assert "weight" not in predict(called, weight, x)[0]
    assert predict(called, weight, x, stepped=True)[0]["weight"] == weight.nbytes > CHUNK_NBYTES


def test_a_prediction_changes_nothing() -> None:
    x = torch.ones(5)
    called = called_with(lambda x: x.mul_(2), x)
    x = torch.ones(5)
    called.placement.bind([x], called.plan)
    called.session.flush()
    before, version = dict(called.session.counters.sent), x._version
    commands = len(called.worker.commands)
    first, again = predict(called, x), predict(called, x)
    assert first == again
    assert first[1]["output"] == 20  # what was written comes back
    assert (dict(called.session.counters.sent), x._version) == (before, version)
    assert torch.equal(x, torch.ones(5))
    called.session.flush()
    assert len(called.worker.commands) == commands
