from __future__ import annotations

import pytest
import torch

from dynamo_genie.schemas import OperatorResult, OperatorSchema, read_schema

aten = torch.ops.aten


def test_an_operator_in_place_writes_its_first_argument_and_returns_it() -> None:
    schema = read_schema(aten.add_.Tensor)
    assert schema == OperatorSchema(("self", "other", "alpha"), (0,), (0,), (OperatorResult("self", 0),))


def test_a_view_shares_memory_that_it_does_not_write() -> None:
    schema = read_schema(aten.view.default)
    assert (schema.shares, schema.writes, schema.results) == ((0,), (), (OperatorResult("tensor", 0),))


def test_a_list_of_views_shares_the_memory_of_the_argument_that_is_split() -> None:
    schema = read_schema(aten.split.Tensor)
    assert (schema.shares, schema.writes, schema.results[0].form) == ((0,), (), "list")


def test_an_out_argument_is_known_by_name_wherever_it_stands() -> None:
    schema = read_schema(aten.max.dim_max)
    assert schema.writes == ("max", "max_values")
    assert schema.results == (OperatorResult("self", "max"), OperatorResult("self", "max_values"))


def test_a_fresh_result_shares_nothing() -> None:
    schema = read_schema(aten.native_layer_norm.default)
    assert (schema.shares, schema.results) == ((), (OperatorResult("tensor"),) * 3)


@pytest.mark.parametrize("operator", [aten._local_scalar_dense.default, aten.equal.default, aten.sym_size.int])
def test_a_plain_number_is_told_from_a_tensor(operator: torch._ops.OpOverload) -> None:
    assert read_schema(operator).results == (OperatorResult("scalar"),)


def test_an_argument_is_found_by_position_or_by_name() -> None:
    schema = read_schema(aten.max.dim_max)
    given = {"dim": 1, "max": "a", "max_values": "b"}
    assert [schema.argument(place, ("x",), given) for place in (0, 1, 2, "max")] == ["x", 1, None, "a"]
