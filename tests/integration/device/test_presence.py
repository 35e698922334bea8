"""The device is there when torch is, costs a program nothing that does not use it, and is found by one that does."""

from __future__ import annotations

import os

import pytest
import torch

from dynamo_genie.torch_internals.device.presence import has_an_accelerator
from tests.integration.real_daemon import RealDaemon, run_interpreter

pytestmark = pytest.mark.skipif(
    os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about a device that is in daemons"
)

UNUSED = """
import multiprocessing, sys
import torch

def differentiate(_=None):
    weight = torch.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    return weight.grad.tolist()

assert torch.accelerator.current_accelerator() is None
assert not torch.accelerator.is_available()
assert torch._C._get_accelerator() == torch.device("cpu")
torch.manual_seed(0)
print(differentiate())
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(differentiate, [0]))
loader = torch.utils.data.DataLoader([1, 2], num_workers=1)
print([batch.item() for batch in loader])
assert str(torch.device("remote_accelerator:0")) == "remote_accelerator:0"
loaded = [name for name in sys.modules if name.split(".")[0] in ("zmq", "msgspec")]
assert not loaded, loaded
assert not [name for name in sys.modules if name.startswith("dynamo_genie.device.")]
"""


def test_a_program_that_does_not_use_the_device_is_as_it_was() -> None:
    """Nothing is loaded, there is no accelerator, and a process that differentiated may be forked, and go on there."""
    assert run_interpreter("-W", "ignore", "-c", UNUSED) == "[3.0, 3.0]\n[[3.0, 3.0]]\n[1, 2]\n"


@pytest.mark.parametrize("first", ["import torch", "import dynamo_genie, torch", "import torch, dynamo_genie"])
def test_two_lines_suffice(first: str) -> None:
    code = f"{first}\nx = torch.randn(10, 10, device='remote_accelerator:0')\nprint(x.device, (x @ x).shape)"
    assert run_interpreter("-c", code) == "remote_accelerator:0 torch.Size([10, 10])\n"


FIRST_USES = """
import io, os
import torch

D = "remote_accelerator"
FILE = io.BytesIO()
torch.save(torch.ones(2), FILE)
FILE.seek(0)
USES = {
    "a tensor": lambda: torch.ones(2, device=D),
    "a move": lambda: torch.ones(2).to(D),
    "a module": lambda: torch.nn.Linear(2, 2).to(D).weight,
    "a method": lambda: torch.ones(2).remote_accelerator(),
    "a default": lambda: torch.set_default_device(D) or torch.ones(2),
    "a context": lambda: torch.device(D).__enter__() and torch.ones(2),
    "a file": lambda: torch.load(FILE, map_location=D),
    "a generator": lambda: torch.rand(2, generator=torch.Generator(device=D), device=D),
    "a like": lambda: torch.zeros_like(torch.ones(2), device=D),
    "the module": lambda: torch.remote_accelerator.current_device() or torch.ones(2, device=D),
}
for name, use in USES.items():
    child = os.fork()
    if not child:
        tensor = use()
        print(f"{name}: {tensor.device} {tuple(tensor.cpu().shape)[:1]}", flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def test_every_first_use_finds_the_device() -> None:
    with RealDaemon() as daemon:
        printed = run_interpreter("-W", "ignore", "-c", FIRST_USES, environ={"GENIE_DAEMONS": daemon.endpoint})
    found = [line.partition(": ")[2] for line in printed.splitlines()]
    assert found == ["remote_accelerator:0 (2,)"] * 10


LATE = """
import torch, dynamo_genie
weight = torch.ones(1, requires_grad=True)
weight.sum().backward()  # autograd has made its threads by now
with torch.no_grad(), torch.inference_mode():
    dynamo_genie.connect(daemons={daemons})
assert torch.accelerator.is_available() and torch.accelerator.device_count() == 2
x = torch.ones(2, device="remote_accelerator:1", requires_grad=True)
(x * 2).sum().backward()
print(x.grad)
try:
    torch.ones(1, device="remote_accelerator:2")
except RuntimeError as error:
    print(error)
dynamo_genie.shutdown()
"""


def test_daemons_are_named_by_connect_after_autograd_began() -> None:
    with RealDaemon() as first, RealDaemon() as second:
        code = LATE.format(daemons=[first.endpoint, second.endpoint])
        printed = run_interpreter("-W", "ignore", "-c", code).splitlines()
    assert printed[0] == "tensor([2., 2.], device='remote_accelerator:1')"
    assert "there is no remote_accelerator:2: this process has 2" in printed[1]


def test_named_daemons_are_an_accelerator() -> None:
    code = """
import torch
print(torch.accelerator.is_available(), torch.accelerator.current_accelerator(), torch.accelerator.device_count())
batch = next(iter(torch.utils.data.DataLoader([1.0, 2.0], batch_size=2, pin_memory=True)))
print(batch.to(torch.accelerator.current_accelerator()).sum().item())
"""
    with RealDaemon() as daemon:
        printed = run_interpreter("-W", "ignore", "-c", code, environ={"GENIE_DAEMONS": daemon.endpoint})
    assert printed == "True remote_accelerator 1\n3.0\n"


def test_errors_are_raised_by_the_operator_where_that_is_asked() -> None:
    code = """
import torch
layer = torch.nn.Embedding(3, 2).to("remote_accelerator")
before = layer.weight.tolist()
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
try:
    loss = layer(torch.tensor([7]).to("remote_accelerator")).sum()
except IndexError:
    print("by the operator")
print(layer.weight.tolist() == before)
"""
    printed = run_interpreter("-W", "ignore", "-c", code, environ={"GENIE_ERRORS": "immediate"})
    assert printed == "by the operator\nTrue\n"


def test_where_torch_does_not_look_it_is_registered_by_hand() -> None:
    code = """
import torch, dynamo_genie
try:
    torch.device("remote_accelerator")
except RuntimeError:
    print("not there")
dynamo_genie.register_device()
dynamo_genie.register_device()
print(torch.ones(1, device="remote_accelerator"))
"""
    printed = run_interpreter("-c", code, environ={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert printed == "not there\ntensor([1.], device='remote_accelerator:0')\n"


def test_another_device_keeps_its_place() -> None:
    code = """
import torch
torch.utils.rename_privateuse1_backend("elsewhere")
from dynamo_genie.autoload import autoload
autoload()
print(torch.device("elsewhere"))
import dynamo_genie
dynamo_genie.register_device()
"""
    with pytest.raises(AssertionError, match="this process has the device 'elsewhere'") as caught:
        run_interpreter("-c", code, environ={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert "elsewhere\n" in str(caught.value)


def test_an_accelerator_of_torch_is_seen_by_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_an_accelerator()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("os.path.exists", lambda path: path == "/dev/nvidiactl")
    assert has_an_accelerator()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not has_an_accelerator()
