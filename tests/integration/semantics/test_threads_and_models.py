"""Several threads and several models at once: none sees the values of another."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from tests.integration.compare import plain, same
from tests.integration.conftest import Compile

NEEDS_A_DAEMON = True
"""In one process, the threads of both sides would share a generator and a default dtype."""

THREADS = 4
CALLS = 20
WAIT_S = 60


def _model(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 6))


def _in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Runs `work(0)` to `work(THREADS - 1)` at the same time; an error of any of them is raised here."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> Any:
        start.wait(WAIT_S)
        with torch.no_grad():
            return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(run, number) for number in range(THREADS)]
        return [future.result(WAIT_S) for future in futures]


def _chain(forward: Callable[[Tensor], Tensor], number: int) -> list[Tensor]:
    """Each result is the next input, so one wrong value spoils all that follow."""
    x = torch.full((2, 6), float(number))
    results = []
    for _ in range(CALLS):
        x = forward(x)
        results.append(x)
    return [plain(result) for result in results]


def test_four_threads_on_one_compiled_model(compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    with torch.no_grad():
        call(torch.zeros(2, 6))
        expected = [_chain(model, number) for number in range(THREADS)]
    same(_in_threads(lambda number: _chain(call, number)), expected)


def test_four_threads_that_all_make_the_first_call(compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    with torch.no_grad():
        expected = [_chain(model, number) for number in range(THREADS)]
    same(_in_threads(lambda number: _chain(call, number)), expected)


def test_four_threads_with_a_model_each(compiled: Compile) -> None:
    models = [_model() for _ in range(THREADS)]
    calls = [compiled(model) for model in models]
    with torch.no_grad():
        expected = [_chain(model, number) for number, model in enumerate(models)]
    same(_in_threads(lambda number: _chain(calls[number], number)), expected)


def test_result_of_one_thread_is_read_in_another(compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    x = torch.ones(2, 6)
    with torch.no_grad():
        expected, result = model(x), call(x)
    same(_in_threads(lambda number: plain(result)), [expected] * THREADS)


def test_results_dropped_in_other_threads_do_no_harm(compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    with torch.no_grad():
        handed_over = [[call(torch.full((2, 6), float(n)))] for n in range(THREADS)]
        _in_threads(lambda number: handed_over[number].clear())
        same(call(torch.ones(2, 6)), model(torch.ones(2, 6)))


def test_two_models_interleaved(compiled: Compile) -> None:
    first, second = _model(), _model(width=5)
    call_first, call_second = compiled(first), compiled(second)
    x = y = torch.ones(2, 6)
    with torch.no_grad():
        for _ in range(4):
            expected = second(first(x)), first(second(y))
            x, y = call_second(call_first(x)), call_first(call_second(y))
            same((x, y), expected)
            x, y = plain(x), plain(y)


def test_two_models_of_one_class_with_different_weights(compiled: Compile) -> None:
    models = [_model() for _ in range(3)]
    calls = [compiled(model) for model in models]
    x = torch.ones(2, 6)
    with torch.no_grad():
        for _ in range(2):
            for model, call in zip(models, calls, strict=True):
                same(call(x), model(x))


def test_copy_of_a_compiled_model_has_weights_of_its_own(compiled: Compile) -> None:
    original = _model()
    call = compiled(original)
    x = torch.ones(2, 6)
    with torch.no_grad():
        same(call(x), original(x))
        duplicate = copy.deepcopy(original)
        duplicate[0].weight.mul_(2)
        call_duplicate = compiled(duplicate)
        same(call_duplicate(x), duplicate(x))
        same(call(x), original(x))


def test_model_that_is_gone_leaves_the_others_alone(compiled: Compile) -> None:
    kept = _model()
    call = compiled(kept)
    x = torch.ones(2, 6)
    with torch.no_grad():
        for _ in range(3):
            passing = _model()
            same(compiled(passing)(x), passing(x))
            del passing
            same(call(x), kept(x))
