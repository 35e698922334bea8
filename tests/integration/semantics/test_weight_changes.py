"""Whatever way the weights change between two calls, the next call uses the new ones.

Weights stay on the daemon between calls; nothing may be computed with a copy that is no longer the client's.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.integration.compare import same
from tests.integration.conftest import Compile


class Small(nn.Module):
    """Two layers and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3)
        self.register_buffer("shift", torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x.to(self.shift.dtype))) + self.shift)


def _input() -> Tensor:
    return torch.linspace(-1, 1, 12).view(2, 6)


def _fixed(*shape: int) -> Tensor:
    return torch.linspace(-0.5, 0.7, torch.Size(shape).numel()).view(shape)


def assert_change_is_seen(compiled: Compile, change: Callable[[Small], object], model: Small | None = None) -> None:
    eager = model or Small()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    x = _input()
    with torch.no_grad():
        before = eager(x)
        for _ in range(2):
            same(call(x), before)
        change(eager)
        change(remote)
        expected = eager(x)
        assert before.dtype != expected.dtype or not torch.equal(before, expected), "the change changes nothing"
        for _ in range(2):
            same(call(x), expected)


def test_optimizer_step_is_seen(compiled: Compile) -> None:
    def step(model: Small) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        with torch.enable_grad():
            model(_input()).square().sum().backward()
        optimizer.step()

    assert_change_is_seen(compiled, step)


def test_optimizer_step_after_a_compiled_backward_is_seen(compiled: Compile) -> None:
    eager = Small()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    for _ in range(3):
        for model, forward in ((eager, eager), (remote, call)):
            model.zero_grad()
            forward(_input()).square().sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        same(call(_input()).detach(), eager(_input()).detach())


def test_add_under_no_grad_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.first.weight.add_(0.5))


def test_write_through_a_view_under_no_grad_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.first.weight[2:4].zero_())


def test_add_through_data_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.first.weight.data.add_(0.5))


def test_add_through_detach_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.first.weight.detach().add_(0.5))


def test_assignment_to_data_is_seen(compiled: Compile) -> None:
    def assign(model: Small) -> None:
        model.first.weight.data = _fixed(8, 6)

    assert_change_is_seen(compiled, assign)


def test_assignment_to_data_of_a_transposed_tensor_is_seen(compiled: Compile) -> None:
    def assign(model: Small) -> None:
        model.first.weight.data = _fixed(6, 8).t()

    assert_change_is_seen(compiled, assign)


def test_load_state_dict_is_seen(compiled: Compile) -> None:
    other = Small().state_dict()
    assert_change_is_seen(compiled, lambda model: model.load_state_dict(other))


def test_load_state_dict_with_assign_is_seen(compiled: Compile) -> None:
    other = Small().state_dict()
    assert_change_is_seen(compiled, lambda model: model.load_state_dict(other, assign=True))


def test_replaced_parameter_is_seen(compiled: Compile) -> None:
    def replace(model: Small) -> None:
        model.first.weight = nn.Parameter(_fixed(8, 6))

    assert_change_is_seen(compiled, replace)


def test_replaced_buffer_is_seen(compiled: Compile) -> None:
    def replace(model: Small) -> None:
        model.shift = _fixed(8)

    assert_change_is_seen(compiled, replace)


def test_write_into_a_buffer_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.shift.mul_(3))


def test_replaced_module_is_seen(compiled: Compile) -> None:
    def replace(model: Small) -> None:
        model.second = copy.deepcopy(other)

    other = nn.Linear(8, 3)
    assert_change_is_seen(compiled, replace)


def test_single_element_through_data_is_seen(compiled: Compile) -> None:
    def write(model: Small) -> None:
        model.first.weight.data[3, 2] += 1.0

    assert_change_is_seen(compiled, write)


def test_single_element_through_a_numpy_alias_is_seen(compiled: Compile) -> None:
    def write(model: Small) -> None:
        model.first.weight.detach().numpy()[3, 2] = 4.0

    assert_change_is_seen(compiled, write)


def test_single_element_through_a_numpy_alias_made_before_the_first_call_is_seen(compiled: Compile) -> None:
    layer = nn.Linear(6, 3)
    alias = layer.weight.detach().numpy()
    call = compiled(layer)
    with torch.no_grad():
        for value in (1.0, -2.0, 3.5):
            alias[1, 4] = value
            same(call(_input()), layer(_input()))


def test_single_element_deep_inside_a_large_weight_is_seen(compiled: Compile) -> None:
    layer = nn.Linear(1024, 768)  # 3 MiB, so that no sample of a few bytes finds the change
    call = compiled(layer)
    x = torch.ones(1, 1024)
    with torch.no_grad():
        same(call(x), layer(x))
        for row, column in ((500, 700), (0, 0), (767, 1023), (333, 1)):
            layer.weight.data[row, column] += 1.0
            same(call(x), layer(x))


def test_lora_merge_and_unmerge_are_seen(compiled: Compile) -> None:
    eager = Small()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    delta = _fixed(8, 2) @ _fixed(2, 6)
    with torch.no_grad():
        same(call(_input()), eager(_input()))
        for sign in (1.0, -1.0, 1.0):
            for model in (eager, remote):
                model.first.weight.data += sign * delta
            same(call(_input()), eager(_input()))


def test_conversion_to_half_and_back_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.half())
    assert_change_is_seen(compiled, lambda model: model.float(), Small().half())


def test_conversion_to_double_is_seen(compiled: Compile) -> None:
    assert_change_is_seen(compiled, lambda model: model.double())


def test_tied_weights_change_together(compiled: Compile) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    eager = Tied()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    ids = torch.arange(5)
    with torch.no_grad():
        for _ in range(3):
            same(call(ids), eager(ids))
            for model in (eager, remote):
                model.embed.weight.data.mul_(1.5)


def test_two_parameters_in_one_storage_are_told_apart(compiled: Compile) -> None:
    storage = torch.randn(2, 16)

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Parameter(storage[0]), nn.Parameter(storage[1])

        def forward(self, x: Tensor) -> Tensor:
            return x * self.low - self.high

    model = Halves()
    call = compiled(model)
    x = torch.ones(16)
    with torch.no_grad():
        for _ in range(3):
            same(call(x), model(x))
            storage[1, 3] += 2.0


def test_change_after_the_call_leaves_its_result_alone(compiled: Compile) -> None:
    model = Small()
    call = compiled(model)
    with torch.no_grad():
        for _ in range(3):
            expected = model(_input())
            actual = call(_input())
            model.first.weight.data.add_(0.25)
            same(actual, expected)


def test_changes_back_to_earlier_weights_are_seen(compiled: Compile) -> None:
    model = Small()
    call = compiled(model)
    states = [copy.deepcopy(model.state_dict()), Small().state_dict()]
    with torch.no_grad():
        for number in (1, 0, 1, 0):
            model.load_state_dict(states[number])
            same(call(_input()), model(_input()))


def test_global_tensor_that_the_function_closes_over_is_seen(compiled: Compile) -> None:
    table = torch.arange(6.0)

    def scaled(x: Tensor) -> Tensor:
        return x * table

    call = compiled(scaled)
    for _ in range(3):
        same(call(_input()), scaled(_input()))
        table.add_(1)


def test_writes_anywhere_are_seen_while_the_heap_around_the_weights_is_busy(compiled: Compile) -> None:
    """Weights of all sizes lie between other allocations, whose writes the kernel reports for the same pages."""
    layers = [nn.Linear(width, width).eval() for width in (3, 40, 200, 500)]
    calls = [compiled(layer) for layer in layers]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(15):
            noise = [torch.randn(int(n)) for n in torch.randint(1, 20_000, (10,), generator=generator)]
            for layer, call in zip(layers, calls, strict=True):
                x = torch.ones(1, layer.in_features)
                same(call(x), layer(x))
                for tensor in (layer.weight, layer.bias):
                    for element in (0, -1, int(torch.randint(0, tensor.numel(), (), generator=generator))):
                        tensor.data.view(-1)[element] += 1.0
                        same(call(x), layer(x))
            del noise


def test_writes_of_another_process_into_shared_weights_are_seen(compiled: Compile) -> None:
    eager = nn.Sequential(nn.Linear(64, 700), nn.Tanh(), nn.Linear(700, 3)).share_memory()
    call = compiled(eager)
    x = torch.linspace(-1, 1, 64).view(1, 64)
    first, bias = eager[0].weight.detach().numpy(), eager[2].bias.detach().numpy()
    last = eager[2].weight.detach().numpy().reshape(-1)[-1:].view("uint8")
    with torch.no_grad():
        before = eager(x)
        same(call(x), before)
        for write in (
            lambda: first.__setitem__((3, 5), 1),
            lambda: first.__setitem__(4, 1),
            lambda: last.__setitem__(-1, 0x40),
            lambda: bias.__setitem__(1, 1),
        ):
            child = os.fork()
            if child == 0:
                write()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            after = eager(x)
            assert not torch.equal(after, before)
            for _ in range(2):
                same(call(x), after)
            before = after
