"""Code that touches the memory of a result finds the right values there, and what it writes is the result's."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load, save
from torch import Tensor, nn

import dynamo_genie
from dynamo_genie.errors import NoMemoryHere, StaleHandleError
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.integration.compare import same


def _double(x: Tensor) -> Tensor:
    return x * 2


def _input() -> Tensor:
    return torch.arange(12.0).reshape(3, 4)


@pytest.fixture(scope="module")
def double() -> Callable[[Tensor], Tensor]:
    call: Callable[[Tensor], Tensor] = torch.compile(_double, backend="genie")
    return call


def _write(array: Any, index: int, value: float) -> Any:
    array[index] = value
    return array


TOUCHES: dict[str, Callable[[Tensor], Any]] = {
    "numpy": lambda y: torch.tensor(_write(y.numpy(), 0, 9)),
    "numpy of a view": lambda y: torch.tensor(_write(y[1].numpy(), 2, 9)),
    "asarray": lambda y: torch.tensor(_write(np.asarray(y), 1, 8)),
    "array": lambda y: torch.tensor(_write(np.array(y), 1, 8)),
    "numpy's dlpack": lambda y: torch.tensor(_write(np.from_dlpack(y), 2, 7)),
    "dlpack": lambda y: torch.from_dlpack(y).add_(1),
    "pointer": lambda y: (y.data_ptr() != 0, y.data_ptr() == y.data_ptr()),
    "pointers of views": lambda y: y[1].data_ptr() - y.data_ptr(),
    "storage": lambda y: (y.untyped_storage().nbytes(), y.storage()[3], y[1].untyped_storage().nbytes()),
    "storage written": lambda y: y.untyped_storage().fill_(0) and None,
    "set from a storage": lambda y: torch.empty(0).set_(y.untyped_storage(), 4, (2, 2)).mul_(3),
    "set from a tensor": lambda y: torch.empty(0).set_(y).mul_(3),
    "shared memory": lambda y: (y.is_shared(), y.share_memory_().is_shared(), y.is_shared(), y.add_(1)),
    "apply_": lambda y: y.apply_(lambda value: value + 1),
    "map_": lambda y: y.map_(y + 1, lambda value, other: value * other),
    "copy.copy": lambda y: copy.copy(y).fill_(1),
    "data set": lambda y: setattr(y, "data", torch.ones(5)),
    "data set to a view of another": lambda y: setattr(y, "data", (y + 1)[1:]),
    "data set, then used": lambda y: (setattr(y, "data", torch.ones(3, 4)), y.add_(1), y[0].mul_(3)),
    "pickle": lambda y: pickle.loads(pickle.dumps([y, y[0]])),
    "safetensors": lambda y: load(save({"y": y})),
    "tensor of elements": lambda y: (torch.tensor([y.sum(), y.max()]), torch.FloatTensor([y.sum(), 2.0])),
    "tensor of short rows": lambda y: torch.tensor([y[0, :1], y[0, 1:2]]),
    "array of elements": lambda y: torch.tensor(np.array([y.sum(), y.max()])),
    "as_tensor": lambda y: (torch.as_tensor(y).add_(1), torch.tensor(y).add_(1)),
    "new": lambda y: (y.new_tensor([1, 2]), y.new_zeros(2), y.new([3.0])),
    "numbers": lambda y: (float(y.sum()), int(y.sum()), bool(y[0, 0]), complex(y.max()), [*range(4)][y[0, 1].long()]),
    "foreach of a result and a local tensor": lambda y: torch._foreach_mul_([y, torch.ones(3)], 2),
    "unsqueeze_": lambda y: y.unsqueeze_(1).add_(1),
    "squeeze_": lambda y: y.unsqueeze_(0).squeeze_().add_(1),
    "t_": lambda y: y.t_().add_(1),
    "transpose_": lambda y: y.transpose_(0, 1)[1].zero_(),
    "swapaxes_": lambda y: y.swapaxes_(0, 1),
    "as_strided_": lambda y: y.as_strided_((2, 2), (1, 3)).add_(1),
    "detach_": lambda y: y.detach_(),
    "resize_ to less": lambda y: y.resize_(2, 3).add_(1),
    "resize_ to more": lambda y: y.resize_(5, 5)[4].zero_()[:0],
    "resize_as_": lambda y: y.resize_as_(torch.ones(2)).add_(1),
    "set_ of a tensor": lambda y: y.set_(torch.ones(3)).add_(1),
    "set_ of nothing": lambda y: y.set_(),
    "out= of another shape": lambda y: torch.add(torch.ones(2), 1, out=y.detach()[:0]),
    "quantile": lambda y: torch.quantile(y, 0.3),
    "stft": lambda y: torch.view_as_real(
        torch.stft(y.flatten(), 4, return_complex=True, window=torch.ones(4), center=False)
    ),
    "conjugates": lambda y: torch.view_as_real((y + 1j).conj().resolve_conj()),
    "nested": lambda y: torch.nested.nested_tensor([y[0], y[1, :2]]).unbind(),
    "jagged": lambda y: (torch.nested.as_nested_tensor([y[0], y[1, :2]], layout=torch.jagged) * 2).unbind(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TOUCHES)
def test_touching_a_result_does_what_it_does_to_an_ordinary_tensor(
    name: str, double: Callable[[Tensor], Tensor]
) -> None:
    outcomes = []
    for way in (_double, double):
        y = way(_input())
        flat = y.view(-1)
        touched = TOUCHES[name](y)
        known = y if name != "resize_ to more" else y[:2]
        outcomes.append((touched, known, flat[:12], way(known), known.stride()))
    same(outcomes[1], outcomes[0])


def test_what_was_brought_here_stays_one_memory(double: Callable[[Tensor], Tensor]) -> None:
    y = double(_input())
    row, array = y[1], y.numpy()
    array[1, 0] = 100
    row[1] = 200
    y[1].add_(double(torch.ones(4)))
    same((y, row), (torch.tensor(array), torch.tensor(array[1])))
    assert array[1].tolist() == [102.0, 202.0, 14.0, 16.0]
    same(double(y), torch.tensor(array) * 2)


def test_reading_brings_nothing_here(double: Callable[[Tensor], Tensor]) -> None:
    y = double(_input())
    before = dynamo_genie.stats()["total"]["brought_here"]
    _ = y.tolist(), y.sum().item(), repr(y), pickle.dumps(y), copy.deepcopy(y), float(y[0, 1]), list(y), np.array(y)
    assert dynamo_genie.stats()["total"]["brought_here"] == before
    assert isinstance(y + 1, RemoteTensor)
    y.data_ptr()
    assert dynamo_genie.stats()["total"]["brought_here"] == before + 1
    assert type(y + 1) is Tensor


def test_tensor_that_takes_over_a_result_raises_where_it_is_used(double: Callable[[Tensor], Tensor]) -> None:
    weight = nn.Parameter(torch.zeros(3, 4))
    weight.data = double(_input())
    uses: list[Callable[[], Any]] = [
        lambda: weight + 1,
        weight.sum,
        weight.clone,
        lambda: weight @ weight.t(),
        weight.double,
        lambda: weight[0],
        lambda: torch.zeros(3, 4).copy_(weight),
        lambda: nn.init.zeros_(weight),
        lambda: torch.cat([weight, weight]),
    ]
    for use in uses:
        with pytest.raises(NoMemoryHere, match="to_local"):
            use()
    for touch in (weight.data_ptr, lambda: weight.detach().numpy(), lambda: pickle.dumps(weight)):
        with pytest.raises((RuntimeError, NoMemoryHere)):
            touch()
    weight.data = dynamo_genie.to_local(double(_input()))
    same(weight.detach(), _input() * 2)


def test_views_that_conjugate_keep_a_result_where_it_is(double: Callable[[Tensor], Tensor]) -> None:
    y = double(_input() + 1j)
    conjugated = y.conj()
    with pytest.raises(NoMemoryHere, match="resolve_conj"):
        y.data_ptr()
    same(conjugated.resolve_conj().clone(), (_input() * 2 + 2j).conj().resolve_conj())


# --- elements ---------------------------------------------------------------------------------------------


def test_elements_of_a_small_result_are_fetched_once_until_it_is_written(double: Callable[[Tensor], Tensor]) -> None:
    y = double(torch.arange(1024.0).reshape(32, 32))
    before = dynamo_genie.stats()["total"]
    found = [y[i, j].item() for i in range(32) for j in range(32)]
    after = dynamo_genie.stats()["total"]
    assert found == [2.0 * i for i in range(1024)]
    assert after["fetches"] - before["fetches"] == 2
    assert after["eager_calls"] - before["eager_calls"] <= 6

    y[3, 4].fill_(7)
    y[5][6] = 8
    y[-1, -2] += 1
    assert (y[3, 4].item(), y[5, 6].item(), y[31, 30].item(), y[0, 1].item()) == (7.0, 8.0, 2045.0, 2.0)
    torch.compile(lambda x: x.mul_(2), backend="genie")(y)
    assert [y[3, 4].item(), y[3, 4].item(), y[3, 4].item()] == [14.0] * 3


def test_elements_index_as_in_an_ordinary_tensor(double: Callable[[Tensor], Tensor]) -> None:
    y, expected = double(_input()), _input() * 2
    for _ in range(3):
        same([y[i] for i in range(-3, 3)], [expected[i] for i in range(-3, 3)])
        for index in ((1, 2), (-1, -1), 2, (slice(None), 1), (1, slice(None, None, 2)), (None, 0), ..., (..., 1)):
            same(y[index], expected[index])
        for index in (3, -4, (0, 4), (0, 0, 0)):
            with pytest.raises(IndexError):
                _ = y[index]
    view = y[1, 2]
    y[1, 2] = 5
    assert view.item() == 5
    view.fill_(6)
    same(y[1], torch.tensor([8.0, 10.0, 6.0, 14.0]))


def test_gradients_through_elements(double: Callable[[Tensor], Tensor]) -> None:
    grads = []
    for way in (_double, double):
        x = _input().requires_grad_()
        y = way(x)
        assert y[0, 1].item() == y[0, 1].item() == 2.0
        (y[0, 1] * y[1, 2]).backward()
        weight = torch.ones((), requires_grad=True)
        z = way(_input())
        assert z[0, 0].item() == z[0, 0].item() == 0.0
        z[0, 0] = weight * 3
        z.sum().backward()
        grads += [(x.grad, weight.grad)]
    same(grads[1], grads[0])


def test_a_view_in_inference_mode_of_what_was_made_outside_is_followed_as_that_is(
    double: Callable[[Tensor], Tensor],
) -> None:
    y = double(_input())
    with torch.inference_mode():
        views = y.t(), y[0], y.detach(), y.view(4, 3)
        made = y + 1
    expected = _input() * 2
    for view, wanted in zip(views, (expected.t(), expected[0], expected, expected.view(4, 3)), strict=True):
        assert not view.is_inference()
        same(view, wanted)
    assert made.is_inference()


# --- other processes --------------------------------------------------------------------------------------


def _child(tensor: Tensor, done: Any) -> None:
    tensor[0] = 42
    done.set()


def test_result_given_to_another_process_is_shared_with_it(double: Callable[[Tensor], Tensor]) -> None:
    y = double(_input())
    context = mp.get_context("spawn")
    done = context.Event()
    child = context.Process(target=_child, args=(y[1], done))
    child.start()
    child.join(60)
    assert done.is_set()
    same(y, torch.tensor([[0.0, 2, 4, 6], [42, 10, 12, 14], [16, 18, 20, 22]]))


def test_workers_of_a_loader_read_results_or_say_what_to_do(double: Callable[[Tensor], Tensor]) -> None:
    data = torch.utils.data.TensorDataset(double(_input()))
    loaders = {
        way: torch.utils.data.DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context=way)
        for way in ("spawn", "fork")
    }
    [[batch]] = list(loaders["spawn"])
    same(batch, _input() * 2)
    data.tensors = (double(_input()),)
    with pytest.raises(StaleHandleError, match="to_local"):
        list(loaders["fork"])


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("group")
def test_collectives(double: Callable[[Tensor], Tensor]) -> None:
    outcomes = []
    for way in (_double, double):
        y, gathered, flat, own = way(_input()), [way(_input())], torch.zeros(3, 4), [torch.zeros(3, 4)]
        dist.all_reduce(y)
        dist.all_gather(gathered, y + 1)
        dist.all_gather_into_tensor(flat, y + 2)
        dist.gather(y, own)
        dist.broadcast(y, 0)
        scattered = way(_input())
        dist.scatter(scattered, [way(_input()) + 5])
        objects = [way(_input())]
        dist.broadcast_object_list(objects)
        work = dist.all_reduce(gathered[0], async_op=True)
        work.wait()
        outcomes.append((y, gathered, flat, own, scattered, objects))
    same(outcomes[1], outcomes[0])


# --- other backends ---------------------------------------------------------------------------------------


def test_functions_that_another_backend_compiled_get_real_values(double: Callable[[Tensor], Tensor]) -> None:
    def write_and_return(x: Tensor) -> Tensor:
        x.add_(1)
        return x * 3

    other = torch.compile(write_and_return, backend="aot_eager")
    y = double(_input())
    row = y[1]
    same(other(y), (_input() * 2 + 1) * 3)
    same((y, row), (_input() * 2 + 1, _input()[1] * 2 + 1))
    same(double(y), (_input() * 2 + 1) * 2)


@pytest.mark.slow
def test_inductor_gets_real_values(double: Callable[[Tensor], Tensor]) -> None:
    other = torch.compile(lambda x: x + 1, backend="inductor")
    same(other(double(_input())), _input() * 2 + 1)


# --- plain results ----------------------------------------------------------------------------------------


def test_results_local_are_plain_and_come_in_one_wait() -> None:
    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.sum()

    call = torch.compile(compute, backend="genie", options={"results": "local"})
    call(_input())
    before = dynamo_genie.stats()["total"]["round_trips"]
    found = call(_input())
    assert dynamo_genie.stats()["total"]["round_trips"] - before == 1
    assert [type(tensor) for tensor in found] == [Tensor] * 2
    same(found, compute(_input()))


@pytest.mark.parametrize("options", [{"results": "local"}, {"mode": "naive"}, {"mode": "remote_cache"}, {}])
def test_results_in_one_memory_share_it_wherever_they_are(options: dict[str, str]) -> None:
    def compute(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x * 2
        return y, y[0], x.sum()

    found = torch.compile(compute, backend="genie", options=options)(_input())
    assert found[0][0, 1].item() == found[0][0, 1].item() == found[1][1].item() == 2.0
    found[1].zero_()
    expected = compute(_input())
    expected[1].zero_()
    same(found, expected)


def test_results_local_in_training() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    grads = []
    for options in (None, {"results": "local"}):
        model.zero_grad()
        call = model if options is None else torch.compile(model, backend="genie", options=options)
        x = _input().requires_grad_()
        y = call(x)
        assert type(y) is Tensor
        y.square().sum().backward()
        grads.append((y.detach(), x.grad, model.weight.grad, model.bias.grad))
    assert type(grads[1][1]) is Tensor
    same(grads[1], grads[0])


def test_to_local_of_containers_with_gradients(double: Callable[[Tensor], Tensor]) -> None:
    x = _input().requires_grad_()
    y = double(x)
    before = dynamo_genie.stats()["total"]["round_trips"]
    found = dynamo_genie.to_local({"y": y, "more": [y.detach()[0], 3, (x, None)]})
    assert dynamo_genie.stats()["total"]["round_trips"] - before == 1
    assert type(found["y"]) is type(found["more"][0]) is Tensor
    assert found["more"][2][0] is x
    same(found["y"], _input() * 2)
    found["y"].sum().backward()
    same(x.grad, torch.full((3, 4), 2.0))
    assert dynamo_genie.to_local([1, torch.ones(2)])[0] == 1


def test_torch_save_of_views_shares_memory_after_loading(double: Callable[[Tensor], Tensor]) -> None:
    y = double(_input())
    file = io.BytesIO()
    torch.save({"whole": y, "row": y[0]}, file)
    file.seek(0)
    loaded = torch.load(file)
    loaded["row"].fill_(7)
    assert loaded["whole"][0].tolist() == [7.0] * 4
