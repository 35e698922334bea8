"""A session under all that may happen to it, as a machine of rules, beside plain torch tensors.

Two things are compared. What the worker holds is, after each rule, what a history checker has that repeats each command
that ran; what the client reads is what plain torch has that was told the same as the client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from dynamo_genie.remote_daemon.worker.handle_table import PoisonedInput
from dynamo_genie.runtime.recovery import saving
from dynamo_genie.runtime.session import save_results
from dynamo_genie.runtime.session.session import Handle
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, MAX_FETCH_INLINE_NBYTES, MAX_INLINE_NBYTES
from tests.in_process import Workers
from tests.remote_daemon.cache_histories import APPEND, tokens
from tests.runtime.recovery.test_histories import (
    ADD,
    ADD_IN_PLACE,
    DRAW,
    FILL_ROW,
    FIRST_ROW,
    TRANSPOSE,
    TWO_VIEWS,
    History,
    program,
)
from tests.wire_history import HistoryChecker, Value, same_bits

PRODUCT = program(p.Node("aten.mm.default", (p.Ref(0), p.Ref(1))), inputs=2, outputs=(2,))
LARGE = tuple(int((nbytes // 4) ** 0.5) + 2 for nbytes in (MAX_INLINE_NBYTES, MAX_FETCH_INLINE_NBYTES, CHUNK_NBYTES))
"""Rows of matrices that go up by bulk, that come back by bulk, too, and that are more than a chunk."""

WHICH = st.integers(0, 63)
MOST_ENDINGS = 2
"""So many workers may be lost without an answer in between: one more may die of something it was told."""


def is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() == 2


def is_small(tensor: Tensor) -> bool:
    return tensor.shape == (3, 3)


def is_cache(tensor: Tensor) -> bool:
    return tensor.dim() == 4


class SessionModel(RuleBasedStateMachine):
    """One session, its workers one after the other, and what plain torch has in their place.

    Attributes:
        ran: How often each rule ran, in all machines of a class.
    """

    ran: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.checker = HistoryChecker()
        self.workers = Workers(self.checker.take)
        self.history = History(0, self.workers)
        self.session = self.history.session
        self.tensors = self.history.tensors
        self.failed: list[Handle] = []
        self.endings = 0
        self.patch = pytest.MonkeyPatch()

    def pick(self, which: int, of: Callable[[Tensor], bool] = lambda tensor: True) -> tuple[Handle, Tensor]:
        found = [pair for pair in self.tensors if of(pair[1])]
        return found[which % len(found)]

    def call(self, which: p.Program, *inputs: Handle) -> list[Handle]:
        return self.history.call(which, *inputs)

    @initialize(often=st.booleans())
    def begin(self, often: bool) -> None:
        """Begin, with results saved every few calls or hardly ever."""
        if often:
            self.patch.setattr(saving, "PRUNE_EVERY", 8)
            self.patch.setattr(saving, "FETCHED_BYTES_PER_S", float("inf"))
            self.patch.setattr(save_results, "LONG_CALLS", 4)
        for _ in range(2):
            self.history.put()
        self.tensors.append((self.session.put(tokens(3)), tokens(3)))

    # --- what a program does -------------------------------------------------------------------------------

    @rule()
    def allocate(self) -> None:
        self.ran["allocate"] += 1
        self.history.put()

    @rule(rows=st.sampled_from(LARGE))
    def upload(self, rows: int) -> None:
        self.ran["upload"] += 1
        self.history.put(rows)

    @rule(one=WHICH, other=WHICH, how=st.sampled_from(["sum", "product", "views", "draw", "append"]))
    def compute(self, one: int, other: int, how: str) -> None:
        self.ran["call"] += 1
        if how == "append":
            (past, x), (new, y) = self.pick(one, is_cache), self.pick(other, is_cache)
            self.tensors.append((self.call(APPEND, past, new)[0], torch.cat([x, y], -2)))
            return
        (a, x), (b, y) = self.pick(one, is_small), self.pick(other, is_small)
        if how == "sum":
            self.tensors.append((self.call(ADD, a, b)[0], x + y))
        elif how == "product":
            self.tensors.append((self.call(PRODUCT, a, b)[0], x @ y))
        elif how == "views":
            self.tensors += zip(self.call(TWO_VIEWS, a), ((square := x * x), square.t()), strict=True)
        else:
            self.draw(a, x)

    def draw(self, handle: Handle, x: Tensor) -> None:
        generator = torch.Generator()
        generator.set_state(self.history.generator.get_state())
        result = self.call(DRAW, handle)[0]
        self.tensors.append((result, torch.bernoulli(x, 0.5, generator=generator)))
        assert torch.equal(self.history.generator.get_state(), generator.get_state())
        self.endings = 0

    @rule(one=WHICH, other=WHICH, row=st.booleans())
    def mutate(self, one: int, other: int, row: bool) -> None:
        self.ran["mutate"] += 1
        if row:
            handle, x = self.pick(one, is_matrix)
            self.tensors.append((self.call(FILL_ROW, handle)[0], x.select(0, 1).fill_(7)))
            return
        (a, x), (b, y) = self.pick(one, is_small), self.pick(other, is_small)
        if x.untyped_storage()._cdata != y.untyped_storage()._cdata or x.stride() == y.stride():
            self.call(ADD_IN_PLACE, a, b)  # torch refuses to add to a matrix its own transpose
            x.add_(y)

    @rule(one=WHICH, row=st.booleans())
    def alias(self, one: int, row: bool) -> None:
        self.ran["alias"] += 1
        handle, x = self.pick(one, is_matrix)
        view = x.select(0, 0) if row else x.t()
        self.tensors.append((self.call(FIRST_ROW if row else TRANSPOSE, handle)[0], view))

    @rule(one=WHICH, again=st.booleans())
    def fail(self, one: int, again: bool) -> None:
        """Compute what cannot be, or something from that."""
        self.ran["fail"] += 1
        handle, _ = self.pick(one, is_small)
        wrong = self.failed[one % len(self.failed)] if again and self.failed else self.pick(one, is_cache)[0]
        self.failed += self.call(PRODUCT, handle, wrong)

    @rule(which=st.lists(WHICH, min_size=1, max_size=4))
    def free(self, which: list[int]) -> None:
        self.ran["free"] += 1
        for each in which:
            if self.failed and each % 4 == 0:
                del self.failed[each % len(self.failed)]
                continue
            self._delete(each % len(self.tensors))

    def _delete(self, place: int) -> None:
        """Let go of a tensor that is not the last of its kind."""
        for kind in (is_small, is_cache):
            if [pair for pair in self.tensors if kind(pair[1])] == [self.tensors[place]]:
                return
        del self.tensors[place]

    @rule(which=st.lists(WHICH, min_size=1, max_size=3))
    def read(self, which: list[int]) -> None:
        self.ran["read"] += 1
        self.compare([self.pick(each) for each in which])

    @rule()
    def read_everything(self) -> None:
        self.ran["read"] += 1
        self.compare(self.tensors)

    def compare(self, pairs: list[tuple[Handle, Tensor]]) -> None:
        """Read tensors, and all that is none."""
        handles = [handle for handle, _ in pairs] + self.failed
        found = self.session.fetch_each([handle.id for handle in handles], ["output"] * len(handles))
        for value, (_, expected) in zip(found, pairs, strict=False):
            assert isinstance(value, Tensor), value
            assert same_bits(value, expected)
        assert all(isinstance(value, RuntimeError) for value in found[len(pairs) :])
        self.endings = 0

    # --- what happens to it --------------------------------------------------------------------------------

    @rule(after=st.integers(0, 4), bulk=st.booleans())
    def disconnect(self, after: int, bulk: bool) -> None:
        """Break a connection, now or after some messages; the answers to these are lost, too."""
        self.ran["disconnect"] += 1
        self.workers.break_connection(after, bulk=bulk)

    @rule()
    def duplicate(self) -> None:
        """Let the last message come twice."""
        self.ran["duplicate"] += 1
        self.workers.say_again()

    @precondition(lambda self: self.endings < MOST_ENDINGS)
    @rule(later=st.integers(0, 6), after=st.booleans())
    def kill(self, later: int, after: bool) -> None:
        """Kill the worker, now or at a message to come, before it has run that or after."""
        self.ran["kill"] += 1
        self.endings += 1
        if later:
            self.workers.dies_at, self.workers.after = self.workers.sent + later, after
        else:
            self.workers.kill()

    @precondition(lambda self: self.endings < MOST_ENDINGS)
    @rule()
    def expire(self) -> None:
        """Let the lease end; the worker goes on, without anything of the session's."""
        self.ran["expire"] += 1
        self.endings += 1
        self.workers.expire()
        assert self.workers.alive.state.budget.used == 0

    # --- what is always so ---------------------------------------------------------------------------------

    @invariant()
    def the_worker_holds_what_plain_torch_has_after_the_same_commands(self) -> None:
        worker = self.workers.alive
        if worker.dropped or not self.workers.attachment.liveness.alive:
            return
        expected = self.checker.values("session", self.workers.epoch)
        handles = worker.session.handles
        assert len(handles) == len(expected)
        for handle, value in expected.items():
            found: Value
            try:
                found = handles.tensor(handle)
            except PoisonedInput as error:
                found = error
            assert isinstance(found, Tensor) == isinstance(value, Tensor)
            assert not isinstance(value, Tensor) or same_bits(found, value)  # type: ignore[arg-type]  # both are

    @invariant()
    def the_client_counts_what_it_holds(self) -> None:
        assert self.session.live_handles == len(self.tensors) + len(self.failed)

    def teardown(self) -> None:
        """Read everything, again at another worker, and leave nothing behind."""
        try:
            self.compare(self.tensors)
            self.workers.kill()
            self.compare(self.tensors)
            self.session.sync()
            self.the_worker_holds_what_plain_torch_has_after_the_same_commands()
            assert len(self.workers.alive.session.handles) == self.session.live_handles
        finally:
            self.patch.undo()
            self.session.close()
            self.workers.alive.close()
        assert self.workers.alive.state.budget.used == 0
