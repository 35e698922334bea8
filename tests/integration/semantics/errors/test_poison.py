"""An error belongs to what was computed from it: reading that raises it, and nothing else does."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dynamo_genie
from tests.integration.compare import read, same
from tests.integration.conftest import Compile

GOOD, BAD = torch.tensor([1]), torch.tensor([9])
LATE = "dynamo_genie.runtime.session.late_errors"


def _look_up(ids: Tensor) -> Tensor:
    return functional.embedding(ids, torch.arange(8.0).view(4, 2))


def _fails(use: Callable[[], object]) -> str:
    with pytest.raises(IndexError, match="index out of range") as caught:
        use()
    return str(caught.value)


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """No error is left for the next test."""
    yield
    with contextlib.suppress(IndexError, RuntimeError):
        dynamo_genie.synchronize()


@pytest.fixture
def look_up(compiled: Compile) -> Callable[[Tensor], Tensor]:
    call = compiled(_look_up)
    same(call(GOOD), _look_up(GOOD))
    return call  # type: ignore[no-any-return]


def test_only_what_was_computed_from_an_error_raises_it_and_every_time(look_up: Callable[[Tensor], Tensor]) -> None:
    before = look_up(GOOD)
    bad = look_up(BAD)
    after = look_up(GOOD)
    computed = {"eager": bad + 1, "view": bad[0], "mixed": torch.stack([after, bad]), "reduced": bad.sum()}
    same(read([before, after, after + before]), [_look_up(GOOD), _look_up(GOOD), 2 * _look_up(GOOD)])
    for name, poisoned in computed.items():
        first = _fails(poisoned.tolist)
        assert first.splitlines()[0] == _fails(poisoned.tolist).splitlines()[0], name
    _fails(computed["reduced"].item)
    _fails(lambda: bool(computed["reduced"] > 0))
    same(read(after * 2), 2 * _look_up(GOOD))


def test_an_error_names_operator_line_and_the_call_that_made_it(look_up: Callable[[Tensor], Tensor]) -> None:
    bad = look_up(BAD)
    for _ in range(3):
        look_up(GOOD)
    message = _fails((bad + 1).tolist)
    assert "in aten.embedding.default, called at" in message
    assert "functional.embedding(ids, torch.arange(8.0)" in message
    assert re.search(r"in call \d+ of this session, made \d+\.\d s before this was raised, 4 calls ago", message)
    index = (look_up(GOOD).sum() + 7).long()
    outside = look_up(GOOD)[0].gather(0, index[None])
    with pytest.raises(
        RuntimeError, match=r"(?s)index 12 is out of bounds.*in aten\.gather.*in call \d+ of this session"
    ):
        outside.tolist()


def test_what_a_failed_operator_would_have_written_is_spoiled_and_its_neighbours_are_not(
    look_up: Callable[[Tensor], Tensor],
) -> None:
    base = look_up(torch.tensor([0, 1, 2, 3]))
    first, last, column, other = base[0], base[3], base[:, 1], look_up(GOOD)
    first += look_up(BAD)[0]
    for poisoned in (first, base, column, base + 1):
        _fails(poisoned.tolist)
    assert last.tolist() == [6.0, 7.0]
    assert other.tolist() == [[2.0, 3.0]]
    last.mul_(2)
    assert last.tolist() == [12.0, 14.0]

    counts = look_up(GOOD).squeeze(0)
    index = (counts * 100).long()
    counts.scatter_(0, index, 1.0)  # fails itself
    with pytest.raises(RuntimeError, match="index 200 is out of bounds"):
        counts.tolist()


def test_a_remote_argument_that_a_failed_call_writes_is_spoiled_and_a_local_one_untouched(compiled: Compile) -> None:
    def write(x: Tensor, ids: Tensor) -> Tensor:
        found = _look_up(ids)
        x.add_(1)
        return found

    call, remote = compiled(write), compiled(lambda x: x * 1)(torch.ones(2))
    view = remote[:1]
    call(remote, GOOD)
    assert remote.tolist() == [2.0, 2.0]
    call(remote, BAD)
    for poisoned in (remote, view):
        _fails(poisoned.tolist)
    local = torch.ones(2)
    _fails(lambda: call(local, BAD))
    assert local.tolist() == [1.0, 1.0]
    same(call(local, GOOD), _look_up(GOOD))
    assert local.tolist() == [2.0, 2.0]


def test_buffers_that_a_failed_call_updates_stay_and_are_right_in_the_next_call(compiled: Compile) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.table = nn.BatchNorm1d(3), nn.Embedding(4, 3)

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            return self.norm(x) + self.table(ids)

    model, oracle = Model(), Model()
    oracle.load_state_dict(model.state_dict())
    call, x, good = compiled(model), torch.randn(2, 3), torch.tensor([0, 3])
    with torch.no_grad():
        same(call(x, good), oracle(x, good))
        _fails(lambda: read(call(x, torch.tensor([0, 4]))))
        for name in ("running_mean", "running_var"):
            assert torch.equal(model.norm.get_buffer(name), oracle.norm.get_buffer(name)), name
        for _ in range(2):
            same(call(2 * x, good), oracle(2 * x, good))
    same(dict(model.named_buffers()), dict(oracle.named_buffers()))


def test_a_failed_call_leaves_the_generator_where_the_graph_had_brought_it(compiled: Compile) -> None:
    def draw(x: Tensor, ids: Tensor) -> Tensor:
        return torch.rand(3) + functional.embedding(ids, x)

    call, x = compiled(draw), torch.ones(4, 3)
    states = []
    for way in (draw, call):
        torch.manual_seed(3)
        with pytest.raises(IndexError):
            read(way(x, BAD))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    torch.manual_seed(3)
    expected = torch.rand(2, 3)
    torch.manual_seed(3)
    with pytest.raises(IndexError):
        call(x, BAD)  # waits for the generator, so it raises here
    assert torch.equal(torch.rand(3), expected[1])
    state = torch.get_rng_state()
    bad = compiled(_look_up)(BAD)
    _fails(lambda: functional.dropout(bad))
    assert torch.equal(torch.get_rng_state(), state), "what was never drawn moves nothing"
    results = []
    for way in (draw, call):
        torch.set_rng_state(state)
        results.append(read(way(x, GOOD)))
    same(results[1], results[0])


def test_a_backward_raises_what_spoiled_a_gradient_that_comes_here(compiled: Compile) -> None:
    weigh, loss_of = compiled(lambda w: w * 2), compiled(lambda t, i: functional.nll_loss(t.log_softmax(-1), i))
    good, bad = torch.tensor([0, 1]), torch.tensor([0, 9])
    parameter, leaf = nn.Parameter(torch.ones(2, 2)), torch.ones(2, 2, requires_grad=True)
    for w in (parameter, leaf):
        spoiled = loss_of(weigh(w), bad)
        with pytest.raises(IndexError, match="Target 9 is out of bounds"):
            spoiled.backward()
        assert w.grad is None
    for w in (parameter, leaf):
        loss_of(weigh(w), good).backward()
        assert w.grad is not None
    same(read(leaf.grad), read(parameter.grad))


def test_an_error_of_one_thread_is_never_raised_in_another(look_up: Callable[[Tensor], Tensor]) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def read_on() -> None:
        try:
            while not stop.is_set():
                assert look_up(GOOD).tolist() == [[2.0, 3.0]]
        except BaseException as error:  # noqa: BLE001 - it is reported below
            failures.append(error)

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(20):
        _fails(look_up(BAD).tolist)
        look_up(BAD)
    stop.set()
    reader.join(30)
    assert not failures


def test_what_nobody_reads_is_logged_once_and_what_is_read_is_not(
    look_up: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, LATE):
        _fails(look_up(BAD).tolist)
        assert not caplog.records, "it was raised"
        bad = look_up(BAD)
        bad + 1, bad * 2
        for _ in range(3):
            assert look_up(GOOD).tolist() == [[2.0, 3.0]]
        [record] = caplog.records
        for part in ("nothing has read its results", "index out of range", "aten.embedding.default", "in call"):
            assert part in record.getMessage()
        _fails(bad.tolist)
        assert len(caplog.records) == 1


def test_of_very_many_errors_the_first_are_logged_and_the_others_counted(
    look_up: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, LATE):
        for _ in range(30):
            look_up(BAD)
        look_up(GOOD).tolist()
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 9
    assert texts[-1] == "22 more commands failed since the last answer"


def test_synchronize_raises_the_first_error_that_nobody_was_told_of_once(
    look_up: Callable[[Tensor], Tensor],
) -> None:
    look_up(BAD)
    _fails(dynamo_genie.synchronize)
    dynamo_genie.synchronize()
    read_already = look_up(BAD)
    _fails(read_already.tolist)
    dynamo_genie.synchronize()
    first, second = look_up(BAD), look_up(torch.tensor([7]))
    look_up(GOOD).tolist()  # logs both
    message = _fails(dynamo_genie.synchronize)
    number = re.compile(r"in call (\d+) of this session")
    calls = [number.findall(text) for text in (message, _fails(first.tolist), _fails(second.tolist))]
    assert calls[0] == calls[1] != calls[2]
    dynamo_genie.synchronize()
