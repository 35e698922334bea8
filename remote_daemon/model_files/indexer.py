"""The process that makes the index of a daemon's model files: hashes what is new, at the lowest priority, then waits.

It serves no client and knows no torch. Started by the supervisor in a sandbox that lets it read the models and write
the index; ends with the supervisor.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.channel.parent import die_with_parent
from dynamo_genie.remote_daemon.channel.prctl import name_process
from dynamo_genie.remote_daemon.model_files.catalogue import stored_paths
from dynamo_genie.remote_daemon.model_files.digest_index import IndexFolder, digest_file

logger = logging.getLogger(__name__)

PROCESS_NAME = "genie-index"
LOOK_EVERY_S = 30.0
"""So often it looks for new files."""

LOWEST_PRIORITY = 19


def bring_up_to_date(root: Path, folder: Path) -> int:
    """Make the indexes that are not there, or are of files that have changed; return how many were made.

    Raises:
        OSError: The folder cannot be written.
    """
    indexes, count = IndexFolder(folder), 0
    paths = set()
    for path in stored_paths(root):
        paths.add(path)
        if indexes.is_current(path):
            continue
        try:
            indexes.write(digest_file(path))
        except ModelFileError as error:
            logger.info("%s gets no index: %s", path, error)
        else:
            count += 1
    indexes.remove_others(paths)
    return count


def main() -> None:
    """Run `python -m dynamo_genie.remote_daemon.model_files.indexer ROOT FOLDER SUPERVISOR_PID`."""
    parser = argparse.ArgumentParser(description="Indexes the models of a genie daemon; started by the daemon itself.")
    parser.add_argument("root", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("supervisor_pid", type=int)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(given.supervisor_pid)
    name_process(PROCESS_NAME)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with suppress(OSError):
        os.nice(LOWEST_PRIORITY)
    never = threading.Event()
    while os.getppid() == given.supervisor_pid:
        try:
            bring_up_to_date(given.root, given.folder)
        except OSError as error:
            logger.warning("the index of %s is not written: %s", given.root, error.strerror)
        never.wait(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
