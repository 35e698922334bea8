"""`genie daemon` with workers of a test's own."""

from __future__ import annotations

import sys
from typing import Any


def run_daemon_with(module: str) -> None:
    """Run `genie daemon` as the command line says, with `python -m MODULE` as its workers."""
    from dynamo_genie.cli import daemon
    from dynamo_genie.cli.__main__ import main

    real = daemon.SupervisorConfig

    def with_own_workers(**config: Any) -> Any:
        return real(**config, worker_command=(sys.executable, "-m", module))

    daemon.SupervisorConfig = with_own_workers  # type: ignore[assignment,misc]
    main()
