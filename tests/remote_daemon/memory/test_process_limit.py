"""The limit on a process: what passes it raises, what is below it works, and a compiler gets its room and no more."""

from __future__ import annotations

import json

import pytest

from dynamo_genie.remote_daemon.memory.process_limit import can_limit_process
from tests.integration.real_daemon import run_python

PROGRAM = """
import json, resource, subprocess, sys
import torch
from dynamo_genie.remote_daemon.memory import process_limit as limits
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory

MIB = 1 << 20

def can_take(nbytes):
    try:
        torch.empty(nbytes, dtype=torch.uint8)
    except Exception as error:
        assert is_out_of_memory(error), error
        return False
    return True

limits.reserve_for_threads()
limit = limits.ProcessLimit()
limit.check()
found = {"before": can_take(2_000 * MIB)}
limit.start(100 * MIB)
found["within"] = can_take(100 * MIB)
found["headroom and more"] = can_take(100 * MIB + limits.HEADROOM_NBYTES + MIB)
pieces = []
try:
    while True:
        pieces.append(torch.empty(10_000, dtype=torch.uint8))
        if len(pieces) % limits.CHECK_EVERY == 0:
            limit.check()
except MemoryError:
    found["many small ones"] = "refused by the check"
found["small ones fit"] = len(pieces) * 10_000 > 100 * MIB
pieces.clear()
found["after they are freed"] = can_take(50 * MIB)  # the allocator keeps pieces
with limit.room_for_a_compiler():
    found["a compiler"] = can_take(limits.COMPILER_NBYTES)
    child = "import mmap; mmap.mmap(-1, %d, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)" % limits.COMPILER_NBYTES
    found["its child"] = subprocess.run([sys.executable, "-c", child]).returncode == 0
found["after it"] = can_take(limits.COMPILER_NBYTES)
before = resource.getrlimit(resource.RLIMIT_DATA)[0]
with limit.room_for_a_compiler():
    library = bytearray(200 * MIB)
found["beside a library"] = resource.getrlimit(resource.RLIMIT_DATA)[0] >= before + 200 * MIB
print(json.dumps(found))
"""


@pytest.mark.skipif(not can_limit_process(), reason="the kernel does not limit a process's memory")
def test_a_process_takes_what_it_may_and_hears_of_what_it_may_not() -> None:
    assert json.loads(run_python(PROGRAM)) == {
        "before": True,
        "within": True,
        "headroom and more": False,
        "many small ones": "refused by the check",
        "small ones fit": True,
        "after they are freed": True,
        "a compiler": True,
        "its child": True,
        "after it": False,
        "beside a library": True,
    }
