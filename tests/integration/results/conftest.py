"""Tests about results need no process of the daemon's either."""

from tests.integration.semantics.conftest import in_process

__all__ = ["in_process"]
