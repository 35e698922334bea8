"""The history checker lets through what is right, and says what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
import torch

from dynamo_genie.runtime.session.inline import inline_tensor
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.tensors import spec_of
from tests.runtime.recovery.test_histories import ADD_IN_PLACE
from tests.wire_history import HistoryChecker, HistoryError, Ran

ENCODED = p.encode_program(ADD_IN_PLACE)


def answer(*values: float) -> m.Fetched:
    tensor = torch.tensor(values)
    return m.Fetched(1, (m.FetchedTensor(spec_of(tensor), tensor.numpy().tobytes()),))


def ran(*batches: Iterable[tuple[m.Command, m.WorkerToClient | None]], epoch: int = 1) -> list[Ran]:
    found = []
    for sequence, commands in enumerate(map(list, batches), 1):
        for position, (command, said) in enumerate(commands):
            found.append(Ran("one", epoch, sequence, position, len(commands), command, said))
    return found


def put(handle: int, *values: float) -> tuple[m.Command, None]:
    inline = inline_tensor(torch.tensor(values))
    assert inline is not None
    return m.Put(handle, inline), None


ADDITION: tuple[m.Command, None] = m.Call(1, 0, (1, 2), ()), None
RECORD = ran(
    [(m.RegisterProgram(1, p.program_digest(ENCODED), ENCODED), None), put(1, 1.0, 2.0), put(2, 3.0, 4.0)],
    [ADDITION],
    [ADDITION, (m.Fetch(1, (1,)), answer(7.0, 10.0))],
)


def check(record: list[Ran]) -> HistoryChecker:
    checker = HistoryChecker()
    checker.check(record)
    return checker


def test_a_record_of_commands_once_each_in_order_is_right() -> None:
    checker = check(RECORD)
    assert checker.commands == len(RECORD) == 6
    found = checker.values("one", 1)[1]
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [7.0, 10.0]
    assert checker.values("one", 2) == {}


def test_a_new_epoch_begins_with_nothing() -> None:
    assert check([*RECORD, *ran([put(5, 1.0)], epoch=2)]).values("one", 2).keys() == {5}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (RECORD[:4] + RECORD[3:], r"batch 2, command 0: ran when command 0 of batch 3 was next"),
        (RECORD[:3] + RECORD[4:], r"batch 3, command 0: ran when command 0 of batch 2 was next"),
        (RECORD[:2] + RECORD[3:], r"batch 2, command 0: ran when command 2 of batch 1 was next"),
        (RECORD[:1] + RECORD[:1], r"batch 1, command 0: ran when command 1 of batch 1 was next"),
        ([*ran([put(5, 1.0)], epoch=2), *RECORD], r"epoch 1, batch 1, command 0: ran when epoch 2 had begun"),
        ([*RECORD[:-1], msgspec.structs.replace(RECORD[-1], answer=answer(4.0, 6.0))], "another value than"),
    ],
    ids=["twice", "a batch missing", "a command missing", "a command twice", "late", "another value"],
)
def test_what_is_wrong_is_said(record: list[Ran], problem: str) -> None:
    with pytest.raises(HistoryError, match=problem):
        check(record)
