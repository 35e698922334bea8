"""Fixtures of several modules about fleets."""

from __future__ import annotations

import pytest

from tests.integration.fleets.planned import Plans


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Plans:
    """Daemons that placement takes for slow, and what it decides."""
    found = Plans()
    found.watch(monkeypatch)
    return found
