"""Random numbers: an equal seed gives the numbers of eager, and leaves the generator where eager leaves it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.integration.compare import assert_like_eager, same
from tests.integration.conftest import Compile

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "dropout": lambda x: functional.dropout(x, 0.4),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "randint": lambda x: torch.randint(0, 100, (7,)),
    "randperm": lambda x: torch.randperm(9),
    "normal": lambda x: torch.normal(x, 1.0),
    "uniform_": lambda x: x.clone().uniform_(-1, 1),
    "exponential_": lambda x: x.clone().exponential_(),
    "multinomial": lambda x: torch.multinomial(x.softmax(-1), 3),
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_and_generator_state_equal_eager(name: str, compiled: Compile) -> None:
    assert_like_eager(compiled, DRAWS[name], torch.randn(4, 6))


def test_several_draws_in_one_graph_come_in_the_order_of_eager(compiled: Compile) -> None:
    def draw(x: Tensor) -> tuple[Tensor, ...]:
        return torch.rand_like(x), functional.dropout(x), torch.randn(3), torch.rand(2, 2) + x.sum()

    assert_like_eager(compiled, draw, torch.ones(5, 5))


def test_numbers_drawn_outside_between_calls_continue_the_same_sequence(compiled: Compile) -> None:
    call = compiled(torch.rand_like)
    sequences = []
    for way in (torch.rand_like, call):
        torch.manual_seed(3)
        sequences.append([way(torch.ones(2)), torch.rand(2), way(torch.ones(2)), torch.randn(1)])
    same(sequences[1], sequences[0])


def test_two_calls_draw_different_numbers(compiled: Compile) -> None:
    call = compiled(lambda x: functional.dropout(x, 0.5))
    assert not torch.equal(call(torch.ones(100)), call(torch.ones(100)))


def test_generator_state_saved_and_restored_repeats_the_numbers(compiled: Compile) -> None:
    call = compiled(torch.rand_like)
    state = torch.get_rng_state()
    first = call(torch.ones(5)).clone()
    torch.set_rng_state(state)
    same(call(torch.ones(5)), first)


def test_fork_rng_leaves_the_outer_sequence_alone(compiled: Compile) -> None:
    call = compiled(torch.rand_like)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.random.fork_rng():
        call(torch.ones(3))
    same(torch.rand(3), expected)


def test_graph_without_random_numbers_leaves_the_generator_alone(compiled: Compile) -> None:
    call = compiled(lambda x: x.sin() + 1)
    before = torch.get_rng_state()
    for _ in range(2):
        call(torch.ones(3)).sum().item()
    same(torch.get_rng_state(), before)


def test_explicit_generator_gives_the_numbers_of_eager(compiled: Compile) -> None:
    def draw(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(4, generator=generator)

    generators = torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
    call = compiled(draw)
    for _ in range(2):
        same(call(torch.ones(4), generators[1]), draw(torch.ones(4), generators[0]))
    same(generators[1].get_state(), generators[0].get_state())


def test_dropout_in_backward_uses_the_mask_of_forward(compiled: Compile) -> None:
    def loss(x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5).square().sum()

    call = compiled(loss)
    for seed in range(2):
        inputs = [torch.linspace(1, 2, 50).requires_grad_() for _ in range(2)]
        for way, x in zip((loss, call), inputs, strict=True):
            torch.manual_seed(seed)
            way(x).backward()
        same(inputs[1].grad, inputs[0].grad)


def test_dropout_changes_with_train_and_eval(compiled: Compile) -> None:
    eager = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    with torch.no_grad():
        for train in (True, False, True):
            eager.train(train)
            remote.train(train)
            results = []
            for way in (eager, call):
                torch.manual_seed(2)
                results.append(way(torch.ones(3, 4)))
            same(results[1], results[0])
