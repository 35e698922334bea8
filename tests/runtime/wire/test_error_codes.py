"""The one table of error codes: whatever the daemon can say, the client can raise, and nothing else."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie import errors
from dynamo_genie.remote_daemon.channel.error_record import error_record
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.runtime.session.failures import FAILURE_CLASSES, MemoryQuotaExceeded, RemoteOutOfMemory, to_exception
from dynamo_genie.runtime.wire.error_codes import ERROR_CLASSES, error_code, error_from_code

OURS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.GenieError)]


def test_the_table_has_every_error_of_ours() -> None:
    assert {cls for cls in ERROR_CLASSES.values() if issubclass(cls, errors.GenieError)} == set(OURS)
    assert all(name == cls.__name__ for name, cls in ERROR_CLASSES.items())


@pytest.mark.parametrize("cls", ERROR_CLASSES.values(), ids=lambda cls: cls.__name__)
def test_a_failure_of_the_worker_is_raised_as_the_same_class(cls: type[Exception]) -> None:
    raised = to_exception(error_record(cls("why")), None)
    assert type(raised) is (MemoryQuotaExceeded if cls is errors.QuotaExceeded else cls)
    assert "why" in str(raised)


def test_a_limit_of_memory_is_caught_as_a_lack_of_memory() -> None:
    raised = to_exception(error_record(errors.QuotaExceeded("no room")), None)
    assert isinstance(raised, errors.QuotaExceeded)
    assert isinstance(raised, torch.OutOfMemoryError)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_a_refusal_is_raised_as_the_same_class(cls: type[errors.GenieError]) -> None:
    raised = error_from_code(error_code(cls("why")), "why")
    assert type(raised) is cls
    assert str(raised) == "why"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), torch.linalg.LinAlgError("singular")])
def test_an_error_of_torch_is_raised_as_what_eager_raises(error: Exception) -> None:
    raised = to_exception(describe_failure(error), None)
    assert isinstance(raised, type(error))
    assert type(raised) in {RemoteOutOfMemory, torch.linalg.LinAlgError}


@pytest.mark.parametrize("code", ["SystemExit", "KeyboardInterrupt", "os.system", "", "EngineWarning"])
def test_any_other_name_makes_a_remote_error_that_says_it(code: str) -> None:
    assert code not in FAILURE_CLASSES
    raised = error_from_code(code, "why")
    assert type(raised) is errors.RemoteError
    assert str(raised) == f"{code}: why"


def test_a_refusal_is_never_a_builtin_error() -> None:
    assert type(error_from_code("RuntimeError", "why")) is errors.RemoteError
