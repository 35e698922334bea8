"""What tensors on `remote_accelerator` must do, one function for each; run in a process of their own.

`python -m tests.integration.device.checks NAME ...` runs some, all on one embedded daemon, and names what failed.
The device is one for the whole process, so other tests are kept from it.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dynamo_genie
from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device.register import register_device
from dynamo_genie.errors import NoMemoryHere

NAME = "remote_accelerator"
D = f"{NAME}:0"


def x() -> Tensor:
    return torch.arange(6.0).reshape(2, 3)


def equal(there: Tensor, here: Tensor) -> bool:
    return there.device == torch.device(D) and there.dtype == here.dtype and torch.equal(there.cpu(), here)


# --- tensors ---------------------------------------------------------------------------------------------


def factories_give_what_they_give_on_the_cpu() -> None:
    for make in (
        lambda **on: torch.zeros(2, 3, **on),
        lambda **on: torch.full((2,), 7, **on),
        lambda **on: torch.arange(0, 10, 3, **on),
        lambda **on: torch.linspace(0, 1, 5, **on),
        lambda **on: torch.eye(3, **on),
        lambda **on: torch.tensor([[1, 2], [3, 4]], **on),
        lambda **on: torch.tensor([], **on),
        lambda **on: torch.ones_like(torch.empty(2, 3), **on),
        lambda **on: torch.zeros(2, 3, dtype=torch.bfloat16, **on),
        lambda **on: torch.tril_indices(3, 3, **on),
        lambda **on: torch.empty(0, 4, **on),
        lambda **on: torch.kaiser_window(5, True, 8.0, **on),
    ):
        made, expected = make(device=D), make()
        assert equal(made, expected), expected
        assert made.stride() == expected.stride()
    assert equal(torch.zeros(2, 3).to(D).new_ones(2), torch.ones(2))
    assert torch.ones_like(torch.zeros(2, device=D), device="cpu").device.type == "cpu"


def a_seed_gives_the_numbers_that_the_cpu_gives() -> None:
    for draw in (torch.rand, torch.randn, lambda n, **on: torch.randint(0, 9, (n,), **on), torch.randperm):
        torch.manual_seed(3)
        expected = draw(5), draw(5)
        torch.manual_seed(3)
        assert equal(draw(5, device=D), expected[0])
        assert torch.equal(draw(5), expected[1])  # the CPU goes on where the device stopped
    state = torch.remote_accelerator.get_rng_state()
    first = torch.rand(3, device=D)
    torch.remote_accelerator.set_rng_state(state)
    assert torch.equal(torch.rand(3, device=D), first)
    assert equal(
        torch.randn(3, device=D, generator=torch.Generator().manual_seed(1)),
        torch.randn(3, generator=torch.Generator().manual_seed(1)),
    )


def views_share_memory() -> None:
    here, there = x(), x().to(D)
    for tensor in (here, there):
        row = tensor[0]
        row.add_(10)
        tensor.t()[1] = 5
        tensor.view(-1)[::2].mul_(2)
        tensor[tensor > 20] = 0
        tensor[torch.tensor([1])] += 1
    assert equal(there, here)
    there.unsqueeze_(0)
    assert there.shape == (1, 2, 3)


def copies_go_in_all_directions() -> None:
    there = torch.zeros(2, 3, device=D)
    there.copy_(x())
    here = torch.zeros(2, 3)
    here.copy_(there)
    assert torch.equal(here, x())
    strided = x().t().to(D)
    assert strided.stride() == x().t().stride()
    assert equal(strided, x().t())
    assert equal(x()[:, ::2].to(D), x()[:, ::2])
    assert equal(x().expand(4, 2, 3).to(D), x().expand(4, 2, 3))
    assert equal(there.to(torch.float64), x().double())
    assert equal(there.to("cpu", torch.float16).to(D), x().half())
    assert there.to(D) is there
    assert there.tolist() == x().tolist()


def results_may_be_wanted_in_given_tensors() -> None:
    out = torch.empty(2, 3, device=D)
    assert torch.add(x().to(D), 1, out=out) is out
    assert equal(out, x() + 1)
    small = torch.empty(0, device=D)
    torch.mul(x().to(D), 2, out=small)
    assert equal(small, x() * 2)


def tensors_on_two_devices_are_refused() -> None:
    there = x().to(D)
    with pytest.raises(RuntimeError, match="at least two devices, remote_accelerator:0 and cpu"):
        there + x()
    assert equal(there + torch.tensor(2.0), x() + 2)  # a number
    assert equal(there[torch.tensor([1, 0])], x()[[1, 0]])  # indices
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
        there.numpy()
    with pytest.raises(RuntimeError, match="there is no remote_accelerator:7"):
        torch.zeros(1, device=f"{NAME}:7")


def it_prints_as_pytorch_prints_what_is_on_a_device() -> None:
    assert repr(torch.tensor([1.5, 2.0], device=D)) == f"tensor([1.5000, 2.0000], device='{D}')"
    assert repr(torch.tensor([1], dtype=torch.int32, device=D)) == f"tensor([1], device='{D}', dtype=torch.int32)"
    assert repr(torch.tensor(2.0, device=D)) == f"tensor(2., device='{D}')"
    leaf = torch.zeros(1, device=D, requires_grad=True)
    assert repr(leaf) == f"tensor([0.], device='{D}', requires_grad=True)"
    assert repr(leaf * 2) == f"tensor([0.], device='{D}', grad_fn=<MulBackward0>)"
    assert repr(torch.zeros(0, 3, device=D)) == f"tensor([], device='{D}', size=(0, 3))"


def it_is_copied_saved_and_loaded() -> None:
    there = x().to(D).requires_grad_()
    twin = copy.deepcopy(there)
    with torch.no_grad():
        twin.add_(1)
    assert equal(there.detach(), x())
    assert twin.requires_grad
    file = io.BytesIO()
    torch.save({"there": there, "bf16": x().to(D, torch.bfloat16)}, file)
    for where, device in ((None, D), ("cpu", "cpu")):
        file.seek(0)
        loaded = torch.load(file, map_location=where)
        assert (loaded["there"].device, loaded["bf16"].dtype) == (torch.device(device), torch.bfloat16)
        assert torch.equal(loaded["there"].cpu(), x())
        assert loaded["there"].requires_grad


def files_and_pickles_are_those_of_pytorch() -> None:
    data = torch.arange(6.0, device=D)
    saved = data, data[2:], nn.Linear(3, 1).to(D), torch.randn(3, dtype=torch.complex64, device=D).conj()
    for where, device in ((None, D), ("cpu", "cpu"), (lambda storage, _: storage, "cpu"), ({D: "cpu"}, "cpu")):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(saved, file, _use_new_zipfile_serialization=zipped)
            file.seek(0)
            whole, part, layer, conjugate = torch.load(file, map_location=where, weights_only=False)
            whole[2] = 9
            assert part.device == torch.device(device)
            assert part.tolist() == [9.0, 3.0, 4.0, 5.0]  # one storage still
            assert isinstance(layer.weight, nn.Parameter)
            assert len(list(layer.parameters())) == 2
            assert torch.equal(layer.weight.cpu(), saved[2].weight.cpu())
            assert torch.equal(conjugate.cpu(), saved[3].cpu())
    assert equal(pickle.loads(pickle.dumps(data)), torch.arange(6.0))
    assert equal(ForkingPickler.loads(ForkingPickler.dumps(data)), torch.arange(6.0))


def storages_say_which_memory_is_shared() -> None:
    data = torch.arange(6.0, device=D)
    storage = data.untyped_storage()
    assert (storage.device, storage.nbytes(), len(storage)) == (torch.device(D), 24, 24)
    assert (
        storage.data_ptr() == data[2:].untyped_storage().data_ptr() != torch.ones(6).to(D).untyped_storage().data_ptr()
    )
    assert data.storage().data_ptr() == storage.data_ptr()
    assert storage.cpu().tolist() == storage.tolist() == torch.arange(6.0).untyped_storage().tolist()
    twin = torch.empty(0, device=D).set_(storage, 1, (2,), (2,))
    twin.fill_(7)
    assert data.tolist() == [0.0, 7.0, 2.0, 7.0, 4.0, 5.0]


def memory_is_never_here() -> None:
    data = torch.arange(6.0, device=D)
    for touch in (
        data.__dlpack__,
        lambda: data.apply_(abs),
        lambda: setattr(data, "data", torch.ones(6)),
        lambda: data.untyped_storage().resize_(3),
        lambda: data.untyped_storage()[0],
    ):
        with pytest.raises(NoMemoryHere):
            touch()
    assert equal(data + 1, torch.arange(6.0) + 1)


def what_was_saved_elsewhere_is_loaded_onto_it() -> None:
    shared = torch.arange(6.0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    saved = {
        "model": model.state_dict(),
        "views": [shared[1:3], shared[1:5], torch.tensor(True), torch.empty(0), torch.randn(2, 3).t().bfloat16()],
    }
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    loaded = torch.load(file, map_location=D)
    for there, here in zip(loaded["views"], saved["views"], strict=True):
        assert equal(there, here)
        assert there.stride() == here.stride()
    loaded["views"][0].zero_()
    assert loaded["views"][1].tolist() == [0.0, 0.0, 3.0, 4.0]  # one storage, sent once
    twin = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(D)
    twin.load_state_dict(loaded["model"])
    assert all(equal(twin.state_dict()[name], value) for name, value in model.state_dict().items())


def generators_say_where_they_are_and_draw_what_the_cpu_draws() -> None:
    there = torch.Generator(device=D)
    assert there.device == torch.device(D)
    here = torch.Generator()
    assert there.initial_seed() == here.initial_seed()
    there.manual_seed(5), here.manual_seed(5)
    for _ in range(2):
        assert equal(torch.randn(3, device=D, generator=there), torch.randn(3, generator=here))
    state = there.get_state()
    first = torch.rand(2, device=D, generator=there)
    there.set_state(state)
    assert torch.equal(torch.rand(2, device=D, generator=there).cpu(), first.cpu())
    twin = torch.Generator(device=D)
    twin.set_state(here.get_state())
    weights = torch.tensor([0.2, 0.3, 0.5])
    assert equal(weights.to(D).multinomial(4, True, generator=twin), weights.multinomial(4, True, generator=here))


def streams_and_events_keep_the_order_and_the_time() -> None:
    module = torch.remote_accelerator
    start, middle, end = (module.Event(enable_timing=True) for _ in range(3))
    data = torch.ones(64, 64, device=D)
    start.record()
    for _ in range(20):
        data = data @ data / 64
    middle.record()
    with module.stream(module.Stream()) as stream:
        later = data + 1
        end.record(stream)
    later.record_stream(stream)
    module.current_stream().wait_stream(stream)
    assert 0 < start.elapsed_time(middle) < start.elapsed_time(end)
    with pytest.raises(ValueError, match="enable_timing=True"):
        start.elapsed_time(stream.record_event())
    assert end.query()
    assert stream == module.default_stream() == torch.accelerator.current_stream()
    stream.synchronize()


def pytorch_asks_its_module() -> None:
    module = torch.get_device_module(D)
    assert module is torch.remote_accelerator
    assert module.device_count() == torch.accelerator.device_count() == 1
    assert torch.accelerator.current_accelerator() == torch.device(NAME)
    module.synchronize()
    torch.accelerator.synchronize()
    kept = torch.zeros(1 << 20, device=D)
    module.synchronize()
    assert torch.accelerator.memory_allocated() >= kept.nbytes
    free, limit = module.mem_get_info()
    assert 0 < free < limit
    with module.device(0), torch.device(D):
        assert torch.ones(1).device == torch.device(D)
    data = torch.utils.data.TensorDataset(torch.arange(4.0))
    [[batch], _] = torch.utils.data.DataLoader(data, batch_size=2, pin_memory=True)
    assert equal(batch.to(D, non_blocking=True), torch.tensor([0.0, 1.0]))


def operators_that_no_daemon_runs_write_where_the_tensor_is() -> None:
    scale, found = torch.tensor(2.0, device=D), torch.zeros(1, device=D)
    gradients = [torch.tensor([2.0, 4.0], device=D), torch.tensor([float("inf")], device=D)]
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, 1 / scale)
    assert equal(gradients[0], torch.tensor([1.0, 2.0]))
    assert found.item() == 1.0
    there = torch.tensor([1.0, -3.0], device=D)
    assert torch.ops.aten._add_relu_.Tensor(there, torch.ones(2, device=D)) is there
    assert equal(there, torch.tensor([2.0, 0.0]))
    parts = [torch.zeros(2, device=D), torch.zeros(0, device=D)]
    assert torch.ops.aten.unbind_copy.int_out(torch.eye(2, device=D), 0, out=parts) is None
    assert equal(parts[0], torch.eye(2)[0])
    assert equal(parts[1], torch.eye(2)[1])


# --- modules and training --------------------------------------------------------------------------------


def modules_move_there_and_back() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.other.weight = self.one.weight
            self.register_buffer("count", torch.zeros(1))

    model = Tied()
    weight = model.one.weight
    before = weight.detach().clone()
    model.to(D)
    assert model.one.weight is model.other.weight is weight
    assert isinstance(weight, nn.Parameter)
    assert isinstance(weight, DeviceTensor)
    assert equal(weight.detach(), before)
    assert model.count.device == torch.device(D)
    state = model.state_dict()
    fresh = Tied()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.one.weight, before)
    model.cpu()
    assert model.one.weight is model.other.weight is weight
    assert type(weight) is nn.Parameter
    assert torch.equal(weight, before)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lstm": (lambda: nn.LSTM(6, 8, num_layers=2, bidirectional=True, dropout=0.2), (5, 2, 6)),
    "gru": (lambda: nn.GRU(6, 8, num_layers=2, batch_first=True), (5, 2, 6)),
    "rnn": (lambda: nn.RNN(6, 8, bidirectional=True), (5, 2, 6)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 4),
        ),
        (4, 3, 8, 8),
    ),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.LayerNorm(6), nn.GELU()), (4, 6)),
}


def _trained(
    model: nn.Module, data: Tensor, make: Callable[..., Any], how: str = ""
) -> tuple[list[float], list[Tensor]]:
    """Train a little, with clipping and a scheduler; return losses and parameters."""
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    torch.manual_seed(5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        cast = torch.autocast(data.device.type, dtype=torch.bfloat16) if how == "autocast" else nullcontext()
        with cast:
            out = checkpoint(model, data, use_reentrant=False) if how == "checkpoint" else model(data)
        out = out[0] if isinstance(out, tuple) else out
        loss = out.float().square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


def _same_training(
    make_model: Callable[[], nn.Module], shape: tuple[int, ...], make: Callable[..., Any], how: str = ""
) -> None:
    torch.manual_seed(0)
    here, data = make_model(), torch.randn(shape)
    there = copy.deepcopy(here).to(D)
    expected, found = _trained(here, data, make, how), _trained(there, data.to(D), make, how)
    assert found[0] == expected[0]
    assert all(map(torch.equal, found[1], expected[1]))


def models_train_to_the_same_bits() -> None:
    for make_model, shape in MODELS.values():
        _same_training(make_model, shape, lambda p: torch.optim.AdamW(p, lr=0.01))


def every_optimizer_takes_the_same_steps() -> None:
    make_model, shape = MODELS["mlp"]
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
        torch.optim.Adafactor,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        lambda p: torch.optim.NAdam(p, foreach=True),  # the default there, and it rounds otherwise than the other form
    ):
        _same_training(make_model, shape, make)


def foreach_is_one_program_for_all_parameters() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8))).to(D)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 4, device=D)).sum().backward()
    dynamo_genie.reset_stats()
    optimizer.step()
    assert dynamo_genie.stats()["total"]["eager_calls"] == 1


def checkpointing_computes_the_same() -> None:
    _same_training(*MODELS["mlp"], lambda p: torch.optim.SGD(p, lr=0.1), "checkpoint")


def autocast_computes_in_what_the_cpu_computes_in() -> None:
    make_model, shape = MODELS["cnn"]
    torch.manual_seed(0)
    here, data = make_model(), torch.randn(shape)
    there = copy.deepcopy(here).to(D)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = here(data), F.mse_loss(here(data), torch.zeros(4, 4)), torch.cat([data, data.bfloat16()])
        with torch.autocast(NAME, dtype=torch.bfloat16):
            data = data.to(D)
            zeros = torch.zeros(4, 4, device=D)
            found = there(data), F.mse_loss(there(data), zeros), torch.cat([data, data.bfloat16()])
    assert all(map(equal, found, expected))


def a_scaled_loss_is_unscaled() -> None:
    model = nn.Linear(3, 3).to(D)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler(NAME)
    before = model.weight.detach().cpu()
    scaler.scale(model(torch.ones(1, 3, device=D)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.allclose(model.weight.detach().cpu(), before - 0.1)


def a_scaler_works_where_the_gradients_are() -> None:
    """Losses, scales and weights are those of the CPU, also after a step that is not finite; no gradient comes here."""

    def train(device: str) -> list[object]:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3))).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(torch.device(device).type, init_scale=2.0**14, growth_interval=2)
        dynamo_genie.reset_stats()
        scales = []
        for step in range(6):
            factor = float("inf") if step == 3 else 1.0
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                loss = (model(torch.ones(2, 32, device=device)).float() * factor).square().mean()
            scaler.scale(loss).backward()
            if step % 2:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
        return [scales, [parameter.tolist() for parameter in model.parameters()]]

    there, here = train(D), train("cpu")
    assert there == here
    assert dynamo_genie.stats()["client_operators"] == {}


def what_is_written_by_out_is_what_the_cpu_writes_or_refuses() -> None:
    half, data = torch.full((5000,), 1.001, dtype=torch.float16), torch.rand(4, 4)
    long, double = ({"dtype": dtype} for dtype in (torch.int64, torch.float64))

    def results(device: str) -> Iterator[object]:
        def empty(*size: int, **options: Any) -> Tensor:
            return torch.empty(size, device=device, **options)

        there, halves = data.to(device), half.to(device)
        attempts: tuple[Callable[[], Any], ...] = (
            lambda: torch.sum(halves, 0, out=empty()),
            lambda: torch.cumsum(halves, 0, out=empty(5000)),
            lambda: torch.prod(there, 0, out=empty(4, **double)),
            lambda: torch.sum(there * 2, 0, out=empty(4, **long)),
            lambda: torch.linspace(0, 1, 4, out=empty(4, **double)),
            lambda: torch.add(there, there, out=empty(4, 4, **double)),
            lambda: torch.add(there.t(), 1, out=empty(0)),
            lambda: torch.sort(there, 0, out=(empty(0), empty(0, **long))),
            lambda: torch.randperm(4, device=device, generator=torch.Generator(device).manual_seed(1)),
            *(partial(name, there, there, out=empty(4, 4, **long)) for name in (torch.add, torch.div, torch.mm)),
            lambda: torch.sin(there, out=empty(4, 4, **long)),
            lambda: torch.cat([there, there], out=empty(0, **long)),
            lambda: torch.stack([there, there], out=empty(0, **long)),
            lambda: torch.manual_seed(0) and torch.bernoulli(there, out=empty(4, 4, dtype=torch.bool)),
            lambda: torch.max(there, 0, out=(empty(4, **long), empty(4, **long))),
            lambda: torch.linalg.vector_norm(there, out=empty(**double)),
        )
        for attempt in attempts:
            try:
                made = attempt()
            except (RuntimeError, TypeError):
                yield "refused"
            else:
                yield [(each.tolist(), each.stride()) for each in ([made] if isinstance(made, Tensor) else made)]

    assert list(results(D)) == list(results("cpu"))


def sequences_are_packed_by_lengths_on_the_cpu() -> None:
    rnn = nn.utils.rnn
    here = torch.randn(3, 5, 4, requires_grad=True)
    there = here.detach().to(D).requires_grad_()
    layer = nn.LSTM(4, 6, batch_first=True)
    found = []
    for data in (here, there):
        layer = layer.to(data.device)
        for lengths, ordered in ((torch.tensor([5, 3, 2]), True), ([2, 5, 3], False)):
            packed = rnn.pack_padded_sequence(data, lengths, batch_first=True, enforce_sorted=ordered)
            out, _ = rnn.pad_packed_sequence(layer(packed)[0], batch_first=True)
            (gradient,) = torch.autograd.grad(out.square().sum(), data)
            found.append([packed.data.tolist(), packed.batch_sizes.tolist(), out.tolist(), gradient.tolist()])
            assert packed.batch_sizes.device.type == "cpu"
    assert found[:2] == found[2:]
    with pytest.raises(RuntimeError, match="decreasing order"):
        rnn.pack_padded_sequence(there, torch.tensor([2, 5, 3]), batch_first=True)
    scores, targets = torch.randn(6, 2, 4).log_softmax(-1), torch.tensor([[1, 2], [1, 3]])
    lengths = torch.tensor([6, 5]), torch.tensor([2, 1])
    assert equal(F.ctc_loss(scores.to(D), targets.to(D), *lengths), F.ctc_loss(scores, targets, *lengths))
    whole = torch.tensor([0, 1, 1, 3], dtype=torch.int32, device=D)
    assert torch.histc(whole, bins=4, min=0, max=3).tolist() == [1, 2, 0, 1]


def modules_move_whoever_holds_their_parameters() -> None:
    data = torch.randn(2, 3)
    layer = nn.utils.weight_norm(nn.Linear(3, 3))
    before = layer(data)
    layer.to(D)
    assert equal(layer(data.to(D)).detach(), before.detach())
    with pytest.raises(RuntimeError, match="moved to another device after the forward pass"):
        before.sum().backward()
    held = nn.Linear(3, 3)
    view, reference = held.weight.view(9), weakref.ref(held.weight)
    optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
    held.to(D)
    held(data.to(D)).sum().backward()
    optimizer.step()
    assert reference() is held.weight
    assert held.weight.device == torch.device(D)
    assert view.device.type == view._base.device.type == "cpu"
    assert not torch.equal(view, held.weight.detach().cpu().view(9))


def errors_in_a_backward_pass_are_raised() -> None:
    leaf = torch.ones(3, device=D, requires_grad=True)

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise ValueError("of a function")

    hooked = leaf * 2
    hooked.register_hook(lambda gradient: 1 / 0)
    for value, error in ((Fails.apply(leaf), ValueError), (hooked, ZeroDivisionError)):
        with pytest.raises(error):
            value.sum().backward()
    with pytest.raises(RuntimeError, match=r"at least two devices|invalid gradient"):
        (leaf * leaf).backward(torch.ones(3))
    leaf.grad = None
    (leaf * leaf).sum().backward()
    assert equal(leaf.grad, torch.full((3,), 2.0))


# --- compiled --------------------------------------------------------------------------------------------


def compiled_calls_take_and_give_what_is_there() -> None:
    call = torch.compile(lambda a, b: ((a @ b).relu(), a.sum(), torch.zeros(2, device=a.device)), backend="genie")
    here = torch.randn(3, 4), torch.randn(4, 5)
    there = tuple(tensor.to(D) for tensor in here)
    dynamo_genie.reset_stats()
    found = call(*there)
    sent = dynamo_genie.stats()["total"]["sent"]
    assert {name: nbytes for name, nbytes in sent.items() if nbytes and name != "control"} == {}
    assert all(map(equal, found, ((here[0] @ here[1]).relu(), here[0].sum(), torch.zeros(2))))


def a_compiled_step_sends_and_fetches_neither_weights_nor_gradients() -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64))
    there = copy.deepcopy(here).to(D)
    data = torch.randn(8, 64)

    def step(model: Any, run: Any, data: Tensor, optimizer: torch.optim.Optimizer) -> float:
        optimizer.zero_grad()
        loss = run(data).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    found = []
    for model, run, batch in ((here, here, data), (there, torch.compile(there, backend="genie"), data.to(D))):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True)
        torch.manual_seed(1)
        losses = [step(model, run, batch, optimizer) for _ in range(2)]
        dynamo_genie.reset_stats()
        found.append([*losses, step(model, run, batch, optimizer)])
    assert found[0] == found[1]
    total = dynamo_genie.stats()["total"]
    assert total["calls"] == 2
    moved = sum(total["sent"].values()) + sum(total["received"].values())
    assert moved < 20_000, total  # of them twice 5 kB are the state of the generator
    assert all(parameter.grad.device == torch.device(D) for parameter in there.parameters())
    assert all(
        torch.equal(a.detach().cpu(), b.detach()) for a, b in zip(there.parameters(), here.parameters(), strict=True)
    )


CHECKS = {
    name: check
    for name, check in globals().items()
    if callable(check)
    and getattr(check, "__module__", "") == __name__
    and not name.startswith("_")
    and name not in ("x", "equal")
}
"""All of them, by name."""


def main(names: list[str], checks: Mapping[str, Callable[[], None]] = CHECKS) -> int:
    """Run some; return how many failed."""
    register_device()
    torch.set_num_threads(1)
    failed = 0
    for name in names:
        torch.manual_seed(0)
        try:
            checks[name]()
        except Exception:  # noqa: BLE001  # the others are to be run, too
            failed += 1
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
    dynamo_genie.shutdown()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(CHECKS)))
