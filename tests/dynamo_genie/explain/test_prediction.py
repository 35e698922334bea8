"""What a call will move, said before it is made."""

from __future__ import annotations

import math

import pytest

from dynamo_genie.explain.expected_call import (
    Content,
    ExpectedCall,
    ExpectedInput,
    LocalTensor,
    ReadBack,
    RemoteTensorInput,
    SessionNumbers,
)
from dynamo_genie.explain.prediction import predict_call
from dynamo_genie.passes.placement.plan import Cut
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES


def call(*inputs: ExpectedInput, ids: int = 1000, **more: object) -> ExpectedCall:
    return ExpectedCall(5, 6, SessionNumbers(ids, 10, 10), inputs, n_outputs=2, **more)  # type: ignore[arg-type]


def test_a_remote_input_costs_its_number_alone() -> None:
    none, one = predict_call(call()), predict_call(call(RemoteTensorInput(70_000)))
    assert one.sent["control"] - none.sent["control"] == 5  # a tag and four bytes
    assert set(one.sent) == {"control"}


def test_a_session_that_has_counted_further_pays_more_for_its_numbers() -> None:
    assert predict_call(call(ids=100_000)).sent["control"] - predict_call(call(ids=1000)).sent["control"] == 4


def test_a_mask_packs_and_token_ids_do_less() -> None:
    mask = predict_call(call(LocalTensor("int64", (1, 512), "input"))).sent["input"]
    tokens = predict_call(call(LocalTensor("int64", (1, 512), "input", False, Content.TOKENS, 50_257))).sent["input"]
    counting = predict_call(call(LocalTensor("int64", (1, 512), "input", False, Content.COUNTING))).sent["input"]
    assert mask < 64 < counting < tokens < 512 * 8 // 2


def test_floats_travel_as_they_are() -> None:
    assert predict_call(call(LocalTensor("float32", (3, 5), "input"))).sent["input"] == 60


def test_a_large_input_goes_in_chunks() -> None:
    nbytes = 10 * CHUNK_NBYTES
    found = predict_call(call(LocalTensor("float32", (nbytes // 4,), "input")))
    assert found.sent["input"] == nbytes
    assert 0 < found.received["control"] < 100


def test_what_comes_back_is_counted_under_its_class() -> None:
    found = predict_call(call(reads=(ReadBack("float32", (4, 4), "gradient"),)))
    assert found.received["gradient"] == 64
    assert 0 < found.received["control"] < 64


def test_random_numbers_cost_the_generators_state_both_ways() -> None:
    found = predict_call(call(draws=True))
    assert min(found.sent["control"], found.received["control"]) > 5056


@pytest.mark.parametrize(("role", "kind"), [("kv_cache", "kv_cache"), ("logits", "activation"), ("weight", "weight")])
def test_a_cut_moves_between_daemons_and_nowhere_else(role: str, kind: str) -> None:
    found = predict_call(call(), [Cut("hidden", "a", "b", 4096, role)])
    assert found.between == {kind: 4096}
    assert found.sent == predict_call(call()).sent
    assert math.isnan(found.wall_s)
