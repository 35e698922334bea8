"""Errors that reach a client say what failed and in which function, and nothing of the daemon's file system."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dynamo_genie
from tests.integration.real_daemon import REPOSITORY, RealDaemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OWN_WORDS = "the row in /home/me/rows is not there"
PLACES = (sys.prefix, sys.base_prefix, str(REPOSITORY), str(Path(torch.__file__).parents[1]))


class DebuggedDaemon(RealDaemon):
    """A daemon that may show its paths."""

    def _start(self) -> None:
        self._command.append("--debug")
        super()._start()


@pytest.fixture(params=[RealDaemon, DebuggedDaemon])
def daemon(request: pytest.FixtureRequest) -> Iterator[RealDaemon]:
    with request.param() as running:
        yield running
        dynamo_genie.shutdown()


def raised(daemon: RealDaemon, function: object, *arguments: torch.Tensor) -> str:
    compiled = torch.compile(function, backend="genie", options={"daemons": [daemon.endpoint]})  # type: ignore[call-overload]
    with pytest.raises((IndexError, RuntimeError)) as caught:
        compiled(*arguments).sum().item()
    return str(caught.value)


def test_errors_name_no_places_unless_the_daemon_is_debugged(daemon: RealDaemon) -> None:
    def pick(rows: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        return rows[which] * 2

    def require(rows: torch.Tensor, holds: torch.Tensor) -> torch.Tensor:
        torch._assert_async(holds, OWN_WORDS)
        return rows + 1

    missing = raised(daemon, pick, torch.ones(3), torch.tensor([99]))
    assert "index 99 is out of bounds" in missing
    assert "in aten.index.Tensor" in missing
    assert "in run_nodes" in missing
    remote = missing.partition("remote traceback")[2]  # before it stands the client's own line
    places = [place for place in PLACES if f"{place}/" in remote]
    unmet = raised(daemon, require, torch.ones(3), torch.tensor(False))
    assert unmet.startswith(OWN_WORDS)
    if isinstance(daemon, DebuggedDaemon):
        assert places
    else:
        assert places == []
        assert 'File "dynamo_genie/remote_daemon/engines/eager.py", line' in remote
        assert not any(f"{place}/" in unmet.partition("remote traceback")[2] for place in PLACES)
