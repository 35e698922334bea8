"""Failures reach the client as what eager PyTorch would raise, whatever they were wrapped in on the way."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.engine import NodeError
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.remote_daemon.worker.handle_table import PoisonedInput

ON_THE_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), ON_THE_CPU])
def test_lack_of_memory_is_known_by_what_an_error_was_raised_from(lack: Exception) -> None:
    assert is_out_of_memory(lack)
    assert is_out_of_memory(caused(NodeError(3, "aten.mm.default"), caused(RuntimeError("failed"), lack)))
    assert describe_failure(lack).kind == "OutOfMemoryError"


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error: device-side assert"), ValueError("memory")])
def test_other_errors_are_no_lack_of_memory(error: Exception | None) -> None:
    assert not is_out_of_memory(error)


def test_a_failed_node_is_described_by_what_it_raised_and_by_its_place() -> None:
    found = describe_failure(caused(NodeError(3, "aten.mm.default"), ValueError("shapes")), "Call", 7)
    assert (found.kind, found.message, found.operator) == ("ValueError", "shapes", "aten.mm.default")
    assert (found.program, found.node) == (7, 3)


def test_what_a_poisoned_input_causes_is_the_first_error_again() -> None:
    first = describe_failure(ProtocolError("no such program"), "RegisterProgram")
    assert describe_failure(PoisonedInput(first), "Call", 7) is first
