"""Removes the namespaces of a measurement when its owner ends, however it ends.

`python -m dynamo_genie.bench.network.guardian NAMESPACE...` waits for the end of its standard input, whose other end
the owner holds and the kernel closes even when the owner is killed.
"""

from __future__ import annotations

import signal
import sys

from dynamo_genie.bench.network.namespaces import remove


def main(namespaces: list[str]) -> None:
    """Wait for the owner's end, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the owner must not end this first
    sys.stdin.buffer.read()
    remove(namespaces)


if __name__ == "__main__":
    main(sys.argv[1:])
