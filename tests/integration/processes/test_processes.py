"""Forks, spawns, threads and sudden ends around an embedded daemon leave right results and nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dynamo_genie
from tests.integration.real_daemon import LIMIT_S, REPOSITORY, environment, eventually, run_python
from tests.remote_daemon.fixtures import is_running, left_behind

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc"),
]

SETUP = """
import json, os, sys, threading, warnings
import torch
from torch import nn
import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.errors import StaleHandleError
from tests.remote_daemon.fixtures import children_of, is_running, eventually
warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Linear(64, 64).requires_grad_(False)
call = torch.compile(model, backend=genie)
x = torch.ones(2, 64)

def right():
    return torch.equal(call(x) + 0, model(x))

def family():
    daemons = children_of(os.getpid())
    return [pid for d in daemons for pid in (d, *children_of(d))]

def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(body: str) -> str:
    return run_python(SETUP + body)


def test_forked_child_gets_a_daemon_of_its_own_and_right_results() -> None:
    run("""
assert right()
kept = call(x)
mine = family()
assert len(mine) == 2
child = os.fork()
if child == 0:
    try:
        assert right()
        theirs = family()
        assert len(theirs) == 2 and not set(theirs) & set(mine), (mine, theirs)
        try:
            kept.sum().item()
        except StaleHandleError:
            pass
        else:
            raise AssertionError("the parent's tensor can be read in the child")
        dynamo_genie.shutdown()
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
assert wait(child) == 0
assert family() == mine
assert torch.equal(kept + 0, model(x))
assert right()
""")


def test_forked_child_that_does_nothing_leaves_the_parent_alone() -> None:
    run("""
import gc
assert right()
kept = call(x)
mine = family()
for end in ("os._exit", "return", "collect"):
    child = os.fork()
    if child == 0:
        if end == "os._exit":
            os._exit(0)
        if end == "collect":
            del kept
            torch._dynamo.reset()
            gc.collect()
        sys.exit(0)
    assert wait(child) == 0, end
    assert family() == mine
    assert torch.equal(kept + 0, model(x)), end
assert right()
""")


def test_fork_while_another_thread_computes() -> None:
    """The child calls a function that the thread does not: Dynamo holds a mutex of a function's guards while it checks
    them, lets go of the interpreter meanwhile, and a child that inherits it locked waits for ever in PyTorch itself."""
    run("""
own = torch.compile(lambda x: x * 3 + 1, backend=genie)

def own_is_right():
    return torch.equal(own(x) + 0, x * 3 + 1)

assert right() and own_is_right()
stop = threading.Event()
wrong = []

def work():
    while not stop.is_set():
        if not right():
            wrong.append(1)

thread = threading.Thread(target=work)
thread.start()
for _ in range(3):
    child = os.fork()
    if child == 0:
        fine = False
        try:
            fine = own_is_right()
            dynamo_genie.shutdown()
        finally:
            os._exit(0 if fine else 1)
    assert wait(child) == 0
stop.set()
thread.join(60)
assert not wrong and right()
""")


def test_data_loader_workers_around_a_compiled_model() -> None:
    run("""
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, i):
        return torch.full((64,), float(i))

assert right()
mine = family()
for _ in range(2):
    loader = torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context="fork")
    for batch in loader:
        assert torch.equal(call(batch) + 0, model(batch))
assert eventually(lambda: set(family()) == set(mine)), (family(), mine)
assert right()
""")


def test_results_cross_to_a_data_loader_worker_as_values() -> None:
    run("""
import multiprocessing as mp
kept = call(x)
queue = mp.get_context("fork").Queue()
queue.put(kept.numpy())
assert (queue.get(timeout=60) == model(x).numpy()).all()
""")


def test_spawned_process_has_a_daemon_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        SETUP
        + """
import multiprocessing as mp

def work(queue):
    queue.put((right(), family()))
    dynamo_genie.shutdown()

if __name__ == "__main__":
    assert right()
    mine = family()
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    good, theirs = queue.get(timeout=100)
    process.join(60)
    assert good and process.exitcode == 0
    assert len(theirs) == 2 and not set(theirs) & set(mine)
    assert right()
    assert eventually(lambda: not any(is_running(pid) for pid in theirs))
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment(),
        cwd=REPOSITORY,
        timeout=LIMIT_S * 2,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("end", ["SIGKILL", "exit", "exception", "SIGINT"])
def test_embedded_daemon_ends_with_its_client(end: str) -> None:
    code = (
        SETUP
        + """
assert right()
kept = call(x)
print(json.dumps(family()), flush=True)
order = sys.stdin.readline().strip()
if order == "exception":
    raise ValueError("as asked")
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=REPOSITORY,
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        pids = json.loads(client.stdout.readline())
        assert len(pids) == 2
        assert all(map(is_running, pids))
        if end.startswith("SIG"):
            client.send_signal(getattr(signal, end))
        else:
            client.stdin.write(f"{end}\n".encode())
            client.stdin.flush()
        client.wait(LIMIT_S)
    assert eventually(lambda: not any(map(is_running, pids))), "orphans"


def test_end_of_the_thread_that_started_the_daemon_does_not_end_it() -> None:
    run("""
results = []
thread = threading.Thread(target=lambda: results.append(right()))
thread.start()
thread.join(100)
assert results == [True]
kept = call(x)
mine = family()
assert len(mine) == 2
pause = threading.Event()
pause.wait(2)  # time for a signal that must not come
assert family() == mine
assert torch.equal(kept + 0, model(x)) and right()
""")


def test_thousand_calls_grow_neither_handles_nor_memory() -> None:
    run("""
from pathlib import Path
from dynamo_genie.runtime.connect.admission import request_status

def rss(pid):
    line = next(l for l in Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024

def measure():
    (connection,) = CONNECTIONS.all()
    (worker,) = request_status(connection.endpoint, None, 30).workers
    (session,) = worker.sessions
    return {"handles": session.handles, "resident": worker.resident_nbytes, "programs": worker.programs,
            "live": dynamo_genie.stats()["total"]["live_handles"],
            "client": rss(os.getpid()), "worker": rss(worker.pid)}

big = nn.Linear(256, 1024).requires_grad_(False)
compiled = torch.compile(big, backend=genie)
state = torch.ones(256, 256)
large = torch.ones(2, 200_000)
double = torch.compile(lambda x: x * 2, backend=genie)

def step(i):
    y = compiled(state)          # 1 MiB of results
    if i % 10 == 0:
        y[0, 0].item()
    if i % 50 == 0:
        double(large)[0, 0].item()   # by bulk

for i in range(200):
    step(i)
before = measure()
for i in range(1_000):
    step(i)
y = compiled(state); y.sum().item(); del y
after = measure()
for name in ("handles", "live"):
    assert after[name] <= before[name] + 15, (before, after)
assert after["programs"] <= before["programs"] + 2, (before, after)
assert after["resident"] <= before["resident"] + 16 * 2**20, (before, after)
for name in ("client", "worker"):
    assert after[name] - before[name] < 48 * 2**20, (before, after)
""")


def test_no_test_here_left_a_daemon_behind() -> None:
    dynamo_genie.shutdown()  # the embedded daemon that other tests of this process use
    assert left_behind() == []
