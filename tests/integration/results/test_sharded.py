"""Sharded parameters and distributed tensors, in one process: values as in eager, and the daemon does the work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

import dynamo_genie
from tests.integration.compare import same


class Block(nn.Module):
    """A layer of the user's own: torch's own layers are no frames that Dynamo compiles where FSDP breaks the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what the layer adds."""
        return x + self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    """Two blocks and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss."""
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_fsdp2_trains_as_in_eager_and_its_blocks_run_in_the_daemon(mesh: DeviceMesh) -> None:
    outcomes = []
    for backend in ("eager", "genie"):
        torch.manual_seed(0)
        model = Model()
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        call = torch.compile(model, backend=backend)
        before, losses = dynamo_genie.stats()["total"]["calls"], []
        for step in range(3):
            loss = call(torch.full((4, 8), float(step)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach().clone())
        weights = [p.full_tensor().detach().clone() for p in model.parameters() if isinstance(p, DTensor)]
        outcomes.append((losses, weights, dynamo_genie.stats()["total"]["calls"] - before))
    same(outcomes[1][:2], outcomes[0][:2])
    assert outcomes[1][2] >= 3 * 2 * 2, "forward and backward of two blocks in each step"


@pytest.mark.filterwarnings("ignore")
def test_distributed_tensors_go_in_and_come_out(mesh: DeviceMesh) -> None:
    given = distribute_tensor(torch.arange(16.0).reshape(4, 4), mesh, [Replicate()])
    found = torch.compile(lambda a: (a * 2, (a @ a).sum()), backend="genie")(given)
    assert all(isinstance(value, DTensor) for value in found)
    plain = torch.arange(16.0).reshape(4, 4)
    same([value.to_local() for value in found], [plain * 2, (plain @ plain).sum()])
