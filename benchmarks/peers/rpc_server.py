"""The server of torch.distributed.rpc: `python -m dynamo_genie.bench.peers.rpc_server PORT PARENT`."""

from __future__ import annotations

import signal
import sys

from dynamo_genie.bench.machine import use_one_thread
from dynamo_genie.remote_daemon.channel.parent import die_with_parent


def main(port: int, parent_pid: int) -> None:
    """Join the client and do what it asks, until it ends, however it ends."""
    die_with_parent(parent_pid)
    use_one_thread()
    from torch.distributed import rpc

    from dynamo_genie.bench.peers.systems import rpc_options

    rpc.init_rpc("server", rank=1, world_size=2, rpc_backend_options=rpc_options(port))
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
