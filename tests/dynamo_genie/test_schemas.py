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
    for operator in (aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int):
        schema = read_schema(operator)
        assert (schema.shares, schema.writes, schema.results) == ((0,), (), (OperatorResult("list", 0),))
    assert read_schema(aten._foreach_add.Scalar).results == (OperatorResult("list"),)


def test_results_that_share_memory_without_a_word_in_their_schemas_are_known() -> None:
    values = torch.arange(6.0).view(2, 3)
    for operator, argument in (
        (aten.unsafe_split.Tensor, 1),
        (aten.unsafe_split_with_sizes.default, [1, 1]),
        (aten._unsafe_view.default, [3, 2]),
    ):
        schema = read_schema(operator)
        assert schema.shares == (0,)
        assert schema.results[0].argument == 0
        found = operator(values, argument)
        first = found[0] if schema.results[0].form == "list" else found
        assert first.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


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
