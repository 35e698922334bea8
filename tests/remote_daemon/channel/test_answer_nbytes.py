"""What an answer counts while it is remembered is not less than what it takes on the wire."""

from __future__ import annotations

import pytest

from dynamo_genie.remote_daemon.channel.answer_nbytes import answer_nbytes
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import TensorSpec

DEEP = TensorSpec("bfloat16", (70_000,) * 16, (70_000,) * 16)


@pytest.mark.parametrize(
    "answer",
    [
        m.Done(1),
        m.WeightsMissing(1, tuple(range(2000))),
        m.WeightsLoaded(1, (DEEP,) * 1000, (b"d" * 16,) * 1000),
        m.ModelDescribed(1, 500, tuple(m.ModelTensor("n" * 1000, "float32", (1 << 40,) * 8) for _ in range(500))),
        m.ModelsListed(
            1,
            32,
            (m.ModelSummary("n" * 4000, 1, 1, 1, tuple((f"dtype{i}", i) for i in range(19)), "p" * 500),) * 32,
        ),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_remembered_counts_as_much_as_it_is(answer: m.WorkerToClient) -> None:
    assert answer_nbytes(answer) >= len(codec.encode(answer))
