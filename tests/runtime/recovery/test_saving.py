"""Results that are saved need not be computed again, and what they were computed from is let go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from dynamo_genie.errors import NotRecoverable
from dynamo_genie.runtime.recovery import saving as saving_module
from dynamo_genie.runtime.recovery.held import FREE_NBYTES, Budget, Contents
from dynamo_genie.runtime.recovery.records import reach
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import messages as m
from tests.in_process import Workers
from tests.runtime.recovery.test_histories import ADD, ADD_IN_PLACE, TRANSPOSE, History


@pytest.fixture
def history() -> Iterator[History]:
    history = History(0)
    yield history
    history.session.close()
    history.workers.alive.close()


def calls_again(session: Session) -> int:
    """Return how many calls another worker would have to run."""
    assert session.recovery is not None
    journal = session.recovery.journal
    wanted = reach(need for handle in journal.made for need in journal.needs_of(handle))
    return sum(record.command is not None for record in wanted.whole)


def fetch(handle: Handle) -> Tensor:
    return handle.session.fetch([handle.id], ["output"])[0]


def test_a_long_chain_is_cut_where_that_costs_little_time(history: History) -> None:
    session = history.session
    one = session.put(torch.ones(3, 3))
    total = session.put(torch.zeros(3, 3))
    lengths: list[int] = []
    for count in range(1, 7):
        for _ in range(saving_module.PRUNE_EVERY // 2):
            history.call(ADD_IN_PLACE, total, one)
        assert fetch(total)[0, 0] == count * saving_module.PRUNE_EVERY // 2
        lengths.append(calls_again(session))
    half = saving_module.PRUNE_EVERY // 2
    assert lengths == [half, 0, half, 0, half, 0]
    expected = fetch(total)
    history.kill()
    assert torch.equal(fetch(total), expected)


def test_what_dies_while_others_are_saved_is_asked_for_no_more(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = history.session
    assert session.recovery is not None
    saving = session.recovery.saving
    one, total = session.put(torch.ones(3, 3)), session.put(torch.zeros(3, 3))
    dying = history.call(ADD, one, one)
    asked, requests = saving.asked, []

    def asked_while_one_dies(request_id: int, handles: Sequence[int], *, awaited: bool = False) -> None:
        requests.append(len(handles))
        asked(request_id, handles, awaited=awaited)
        dying.clear()

    monkeypatch.setattr(saving, "asked", asked_while_one_dies)
    for _ in range(saving_module.PRUNE_EVERY + 1):
        history.call(ADD_IN_PLACE, total, one)
    assert fetch(total)[0, 0] == saving_module.PRUNE_EVERY + 1
    assert requests == [2, 1]  # to learn how much it is, and to have it


def test_a_long_chain_is_kept_where_its_results_are_large(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving_module, "FETCHED_BYTES_PER_S", 1.0)
    session = history.session
    total = session.put(torch.zeros(3, 3))
    for _ in range(saving_module.PRUNE_EVERY + 1):
        history.call(ADD_IN_PLACE, total, total)
    fetch(total)
    assert calls_again(session) == saving_module.PRUNE_EVERY + 1


def test_a_history_without_end_is_bounded_where_its_results_are_large(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2 * saving_module.PRUNE_EVERY
    monkeypatch.setattr(saving_module, "MAX_CALLS", limit)
    monkeypatch.setattr(saving_module, "FETCHED_BYTES_PER_S", 1.0)
    session = history.session
    one, total, apart = session.put(torch.ones(30, 30)), session.put(torch.zeros(30, 30)), session.put(torch.ones(2))
    for _ in range(3 * limit):
        history.call(ADD_IN_PLACE, total, one)
    assert fetch(total)[0, 0] == 3 * limit
    assert calls_again(session) <= limit + saving_module.PRUNE_EVERY
    history.kill()
    assert fetch(apart).tolist() == [1, 1]
    with pytest.raises(NotRecoverable, match="more calls than a session keeps"):
        fetch(total)


def test_views_stay_views_and_are_not_cut_apart(history: History) -> None:
    session = history.session
    base = session.put(torch.zeros(3, 3))
    [view] = history.call(TRANSPOSE, base)
    one = session.put(torch.ones(3, 3))
    for _ in range(saving_module.PRUNE_EVERY + 1):
        history.call(ADD_IN_PLACE, view, one)
    fetch(base)
    history.kill()
    history.call(ADD_IN_PLACE, base, one)
    assert torch.equal(fetch(view), torch.full((3, 3), float(saving_module.PRUNE_EVERY + 2)))


def test_what_a_saved_result_was_computed_from_is_let_go(history: History) -> None:
    session = history.session
    assert session.recovery is not None
    value = session.put(torch.ones(20, 20))
    budget = session.recovery.journal.budget
    held = budget.used
    assert held >= 20 * 20 * 4
    [result] = history.call(ADD, value, value)
    del value
    session.sync()
    assert budget.used == held, "the result needs it"
    del result
    session.sync()
    assert budget.used == 0


def test_an_input_that_was_overwritten_is_a_named_error_and_one_that_was_not_is_sent_again(history: History) -> None:
    session = history.session
    kept, changed = torch.ones(200, 200), torch.ones(200, 200)
    one, two = session.put(kept), session.put(changed)
    changed.numpy()[0] = 7  # as a data loader may do it, which PyTorch does not see
    history.kill()
    assert torch.equal(fetch(one), kept)
    with pytest.raises(Exception, match="a large input of it was overwritten since it was sent"):
        fetch(two)


def test_more_than_the_budget_is_a_named_error_and_the_rest_survives() -> None:
    workers = Workers()
    session = workers.session()
    assert session.recovery is not None
    session.recovery.journal.budget.limit = 2 * FREE_NBYTES
    values = [session.put(torch.full((FREE_NBYTES // 4,), float(i))) for i in range(3)]
    workers.kill()
    assert [fetch(value)[0].item() for value in values[:2]] == [0, 1]
    with pytest.raises(Exception, match="more than a session keeps on the client"):
        fetch(values[2])
    session.close()


def test_a_share_of_the_budget_comes_back_when_nobody_has_it_any_more() -> None:
    budget = Budget(100)
    first = Contents.of(torch.zeros(20), budget, private=True)
    assert budget.used == 80
    assert Contents.of(torch.zeros(20), budget, private=True) is None
    del first
    assert budget.used == 0


def test_the_worker_saves_what_is_alone_in_its_memory_and_describes_what_is_too_large(history: History) -> None:
    session = history.session
    base = session.put(torch.arange(9.0).reshape(3, 3))
    large = session.put(torch.zeros(200, 200))
    [row] = history.call(TRANSPOSE, base)
    part = session.put(torch.zeros(()))
    with session.lock:
        request = session.request_id()
        session.post(m.Save(request, (base.id, row.id, large.id, part.id, 4711), 100))
        saved = session.wait(request)
    assert isinstance(saved, m.Saved)
    first, transposed, too_large, scalar, unknown = saved.tensors
    assert first is not None
    assert transposed is not None
    assert too_large is not None
    assert scalar is not None
    assert (len(first.data), transposed.spec.stride, len(scalar.data)) == (36, (1, 3), 4)
    assert (too_large.data, too_large.download, too_large.spec.shape) == (b"", 0, (200, 200))
    assert unknown is None


def test_what_has_views_is_saved_and_they_are_made_of_it_again(history: History) -> None:
    session = history.session
    one = session.put(torch.ones(3, 3))
    [total] = history.call(ADD, one, one)
    [view] = history.call(TRANSPOSE, total)
    history.call(ADD, one, one)
    with session.lock:
        session._commands.save_recent()
    session.sync()
    assert calls_again(session) == 1
    history.kill()
    history.call(ADD_IN_PLACE, view, one)
    assert torch.equal(fetch(total), torch.full((3, 3), 3.0))


def test_what_the_last_call_read_is_saved_the_next_time_if_it_is_still_there(history: History) -> None:
    session = history.session
    assert session.recovery is not None
    one = session.put(torch.ones(3, 3))
    [kept], [gone] = history.call(ADD, one, one), history.call(ADD, one, one)
    [last] = history.call(ADD, kept, gone)
    recent = session.recovery.saving.recent
    assert recent() == [last.id]
    gone_id = gone.id
    del gone
    assert session._ids.dying() == {gone_id}
    assert recent(session._ids.dying()) == [kept.id]
    assert recent() == []
