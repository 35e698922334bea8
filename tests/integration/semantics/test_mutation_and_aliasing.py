"""Writes into inputs and memory shared between inputs and outputs behave as in eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integration.compare import assert_like_eager, same
from tests.integration.conftest import Compile


def test_mutated_input_is_written_back(compiled: Compile) -> None:
    def bump(x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2

    assert_like_eager(compiled, bump, torch.randn(4, 3))


def test_function_that_only_mutates_returns_nothing_and_writes(compiled: Compile) -> None:
    def only_writes(x: Tensor) -> None:
        x.mul_(3)

    assert_like_eager(compiled, only_writes, torch.randn(4, 3))


def test_mutation_through_a_view_inside_is_written_back(compiled: Compile) -> None:
    def write_row(x: Tensor, row: Tensor) -> Tensor:
        x[1:3].copy_(row)
        x.view(-1)[0] = 7.0
        return x.sum()

    assert_like_eager(compiled, write_row, torch.randn(4, 3), torch.ones(3))


def test_mutated_input_that_is_a_slice_leaves_its_surroundings(compiled: Compile) -> None:
    def bump(x: Tensor) -> Tensor:
        return x.add_(1)

    eager, remote = torch.arange(12.0), torch.arange(12.0)
    call = compiled(bump)
    for _ in range(2):
        bump(eager[3:9])
        call(remote[3:9])
        same(remote, eager)


def test_mutated_input_that_is_transposed_or_strided(compiled: Compile) -> None:
    def bump(x: Tensor) -> Tensor:
        x.mul_(2)
        return x + 1

    assert_like_eager(compiled, bump, torch.randn(4, 3).t())
    assert_like_eager(compiled, bump, torch.randn(8, 6)[::2, 1::3])


def test_mutation_is_seen_by_views_taken_before_the_call(compiled: Compile) -> None:
    def bump(x: Tensor) -> Tensor:
        x.add_(1)
        return x.sum()

    x = torch.zeros(4, 3)
    view, array = x[1], x.numpy()
    compiled(bump)(x)
    assert view.tolist() == [1.0, 1.0, 1.0]
    assert array[2, 2] == 1.0


def test_mutation_of_an_index_put_and_a_scatter(compiled: Compile) -> None:
    def write(x: Tensor, index: Tensor) -> Tensor:
        x[index] = 5.0
        x.scatter_(1, index[:, None], -1.0)
        return x.clone()

    assert_like_eager(compiled, write, torch.randn(4, 4), torch.tensor([0, 2]))


def test_mutated_integer_counter_input(compiled: Compile) -> None:
    def count(step: Tensor, x: Tensor) -> Tensor:
        step.add_(1)
        return x * step

    step = torch.zeros((), dtype=torch.int64)
    call = compiled(count)
    for number in range(1, 5):
        same(call(step, torch.ones(2)), torch.full((2,), float(number)))
    assert step.item() == 4


def test_same_tensor_passed_twice_and_mutated_once(compiled: Compile) -> None:
    def write(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return x * y

    x = torch.randn(5)
    assert_like_eager(compiled, write, x, x)


@pytest.mark.parametrize("second", [slice(0, 8), slice(2, 6), slice(4, 8), slice(None, None, 2)], ids=str)
def test_inputs_that_alias_each_other_with_one_mutated(second: slice, compiled: Compile) -> None:
    def write(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return y * 2

    base = torch.randn(8)
    assert_like_eager(compiled, write, base, base[second])


def test_neighbours_in_one_storage_do_not_disturb_each_other(compiled: Compile) -> None:
    def write(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return y * 2

    base = torch.randn(8)
    assert_like_eager(compiled, write, base[:4], base[4:])


def test_inputs_that_alias_in_a_later_compilation_only(compiled: Compile) -> None:
    def write(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return y * 2

    base = torch.randn(8)
    for y in (torch.randn(8), base):
        # torch 2.13 has no guard on which inputs share memory: without the reset, aot_eager itself returns the
        # result of the first pattern for the second one, silently.
        torch.compiler.reset()
        assert_like_eager(compiled, write, base, y)


def test_inputs_that_alias_each_other_without_a_write(compiled: Compile) -> None:
    base = torch.randn(8)
    assert_like_eager(compiled, lambda x, y: x[:4] + y, base, base[4:])


def test_overlapping_input_is_read_as_eager_reads_it(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: x * 2, torch.randn(3, 1).expand(3, 4))
    assert_like_eager(compiled, lambda x: x + 1, torch.randn(8).as_strided((3, 4), (2, 1)))


def _write_to(*path: int) -> Any:
    def write(result: Any, _: Any) -> None:
        for step in path:
            result = result[step]
        result.add_(10)

    return write


def test_write_to_an_output_that_views_an_input_is_seen_in_the_input(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: (x.view(-1), x + 1), torch.randn(2, 3), after=_write_to(0))
    assert_like_eager(compiled, lambda x: (x[1:].t(), x + 1), torch.randn(3, 3), after=_write_to(0))


def test_write_to_an_input_is_seen_in_the_output_that_views_it(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: x.t(), torch.randn(2, 3), after=lambda _, args: args[0].add_(10))


def test_write_to_an_input_is_not_seen_in_a_computed_output(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: x * 2, torch.randn(2, 3), after=lambda _, args: args[0].add_(10))


def test_returned_input_is_the_input_itself(compiled: Compile) -> None:
    call = compiled(lambda x: (x, x + 1))
    x = torch.randn(3)
    assert call(x)[0] is x


def test_returned_mutated_input_is_the_input_itself(compiled: Compile) -> None:
    call = compiled(lambda x: x.add_(1))
    x = torch.zeros(3)
    assert call(x) is x
    assert x.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_write_to_one_of_several_outputs_that_share_memory_is_seen_in_the_others(
    written: int, compiled: Compile
) -> None:
    def views(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 2
        return y, y.view(-1), y.t()

    assert_like_eager(compiled, views, torch.randn(2, 3), after=_write_to(written))


def test_one_value_returned_twice_is_one_tensor(compiled: Compile) -> None:
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 1
        return y, y

    first, second = compiled(twice)(torch.zeros(3))
    first.add_(1)
    same(second, torch.full((3,), 2.0))


def test_outputs_that_are_slices_of_one_value_share_memory(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: (x + 1).chunk(2), torch.randn(4, 3), after=_write_to(1))
    assert_like_eager(compiled, lambda x: (x + 1).unbind(0), torch.randn(3, 3), after=_write_to(2))


def test_outputs_computed_apart_do_not_share_memory(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: (x + 1, x + 1), torch.randn(3), after=_write_to(0))


def test_detached_output_shares_memory_with_the_other(compiled: Compile) -> None:
    def detached(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y.detach()

    assert_like_eager(compiled, detached, torch.randn(3), after=_write_to(1))


def test_results_of_two_calls_do_not_share_memory(compiled: Compile) -> None:
    call = compiled(lambda x: x + 1)
    first = call(torch.zeros(3))
    second = call(torch.zeros(3))
    first.add_(5)
    same(second, torch.ones(3))


def test_result_is_not_changed_when_its_input_changes_before_it_is_read(compiled: Compile) -> None:
    call = compiled(lambda x: x.sin() + 1)
    x = torch.randn(4)
    for _ in range(2):
        expected = x.sin() + 1
        actual = call(x)
        x.add_(3)
        same(actual, expected)


def test_result_fed_back_and_mutated_in_place(compiled: Compile) -> None:
    def accumulate(total: Tensor, x: Tensor) -> Tensor:
        total.add_(x)
        return total.sum()

    start, call = compiled(lambda n: torch.zeros(4) + n), compiled(accumulate)
    total = start(torch.ones(()))
    view = total[1:3]
    sums = [call(total, torch.full((4,), float(step))).item() for step in range(3)]
    assert sums == [4.0, 8.0, 16.0]
    same(total, torch.full((4,), 4.0))
    same(view, torch.full((2,), 4.0))


def test_metadata_of_an_input_changed_in_place(compiled: Compile) -> None:
    def reshape(x: Tensor) -> Tensor:
        x.unsqueeze_(0)
        return x + 1

    assert_like_eager(compiled, reshape, torch.randn(2, 3))


def test_mutated_list_and_dict_arguments(compiled: Compile) -> None:
    def fill(box: dict[str, Any], items: list[Tensor]) -> Tensor:
        box["sum"] = items[0] + items[1]
        items.append(items[0] * 2)
        return box["sum"] * 2

    assert_like_eager(compiled, fill, {"sum": torch.zeros(2)}, [torch.ones(2), torch.ones(2)])


def test_attribute_of_a_module_set_inside_forward(compiled: Compile) -> None:
    class Remembers(torch.nn.Module):
        last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = x * 3
            return x + 1

    model = Remembers()
    call = compiled(model)
    for value in (1.0, 2.0):
        call(torch.full((2,), value))
        same(model.last, torch.full((2,), 3 * value))
