"""The daemon's weights equal the local ones at every use, whatever happened to those in between."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dynamo_genie.runtime.weights.weights import ResidentWeights, WeightBinding
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.writes.write_tracking import SampledFingerprint, WriteTracker
from tests.runtime.weights.host_channel import HostChannel

BIG = 1024  # a BIG x BIG float32 weight has 4 chunks


class Model(nn.Module):
    """A big weight, two small ones that share pages with other things, a buffer, a tied weight."""

    steps: torch.Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.big = nn.Linear(BIG, BIG)
        self.small = nn.Linear(8, 8)
        self.tied = nn.Linear(BIG, BIG, bias=False)
        self.tied.weight = self.big.weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def statics(self) -> list[torch.Tensor]:
        return [self.big.weight, self.big.bias, self.small.weight, self.small.bias, self.tied.weight, self.steps]


def assert_same(channel: HostChannel, binding: WeightBinding, tensors: list[torch.Tensor]) -> None:
    assert len(binding.handles) == len(tensors)
    for handle, tensor in zip(binding.handles, tensors, strict=True):
        remote = channel.read(handle)
        assert remote.dtype == tensor.dtype
        assert remote.shape == tensor.shape
        assert torch.equal(remote, tensor.detach().resolve_conj())


def optimizer_step(model: Model) -> None:
    adam = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()


def add_without_grad(model: Model) -> None:
    with torch.no_grad():
        model.big.weight.add_(1)


def one_element_without_grad(model: Model) -> None:
    with torch.no_grad():
        model.big.weight[700, 3] = 42


def add_through_data(model: Model) -> None:
    model.big.weight.data.add_(1)


def swap_data(model: Model) -> None:
    model.big.weight.data = torch.randn(BIG, BIG)


def swap_data_for_its_transpose(model: Model) -> None:
    model.big.weight.data = model.big.weight.data.t()


def swap_data_again_and_again(model: Model) -> None:
    for _ in range(5):
        model.small.weight.data = model.small.weight.data * 0.5


def load_state(model: Model) -> None:
    model.load_state_dict(Model(seed=1).state_dict())


def load_state_by_assignment(model: Model) -> None:
    model.load_state_dict(Model(seed=1).state_dict(), assign=True)


def replace_parameter(model: Model) -> None:
    model.big.bias = nn.Parameter(torch.full((BIG,), 5.0))


def replace_buffer(model: Model) -> None:
    model.steps = torch.tensor(7)


def bump_buffer(model: Model) -> None:
    model.steps += 1


def halve(model: Model) -> None:
    model.half()


def merge_adapter(model: Model) -> None:
    a, b = torch.randn(BIG, 4), torch.randn(4, BIG)
    model.big.weight.data += a @ b


def through_the_tied_name(model: Model) -> None:
    with torch.no_grad():
        model.tied.weight.mul_(2)


def small_element_through_data(model: Model) -> None:
    model.small.weight.data[3, 3] = 9


def small_element_through_numpy(model: Model) -> None:
    model.small.bias.detach().numpy()[1] = 9


def one_element_through_data(model: Model) -> None:
    model.big.weight.data[700, 3] = 42


def one_element_through_numpy(model: Model) -> None:
    model.big.weight.detach().numpy()[0, 501] = 42


def read_from_a_file(model: Model) -> None:
    with open("/dev/zero", "rb") as file:
        file.readinto(model.big.weight.detach().numpy()[100])


Change = Callable[[Model], None]
SEEN_BY_ALL: dict[Change, int | None] = {
    optimizer_step: None,
    add_without_grad: BIG * BIG * 4,
    one_element_without_grad: CHUNK_NBYTES,
    add_through_data: BIG * BIG * 4,
    swap_data: BIG * BIG * 4,
    swap_data_for_its_transpose: None,
    swap_data_again_and_again: 8 * 8 * 4,
    load_state: None,
    load_state_by_assignment: None,
    replace_parameter: BIG * 4,
    replace_buffer: 8,
    bump_buffer: 8,
    halve: None,
    merge_adapter: BIG * BIG * 4,
    through_the_tied_name: BIG * BIG * 4,
    small_element_through_data: 8 * 8 * 4,
    small_element_through_numpy: 8 * 4,
}
"""Each change, and the bytes it must cost (None: not worth a number)."""

SPARSE: dict[Change, int | None] = {
    one_element_through_data: CHUNK_NBYTES,
    one_element_through_numpy: CHUNK_NBYTES,
    read_from_a_file: CHUNK_NBYTES,
}
"""Changes that leave the version as it is and that a sample of the bytes does not show."""


@pytest.mark.parametrize("change", SEEN_BY_ALL, ids=lambda change: change.__name__)
def test_a_change_reaches_the_daemon_and_nothing_else_is_sent(
    change: Change, weights: ResidentWeights, channel: HostChannel
) -> None:
    check_change(change, SEEN_BY_ALL[change], weights, channel)


@pytest.mark.parametrize("change", SPARSE, ids=lambda change: change.__name__)
def test_a_sparse_write_behind_the_version_counter_is_seen(
    change: Change, weights: ResidentWeights, channel: HostChannel
) -> None:
    check_change(change, SPARSE[change], weights, channel)


def check_change(change: Change, nbytes: int | None, weights: ResidentWeights, channel: HostChannel) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    assert_same(channel, binding, model.statics())
    channel.take_sent()
    assert not binding.sync(model.statics())
    assert channel.take_sent() == 0
    for _ in range(2):
        change(model)
        binding.sync(model.statics())
        assert_same(channel, binding, model.statics())
        sent = channel.take_sent()
        if nbytes is not None:
            assert sent in (nbytes, 0)  # 0: the second time changes nothing, or the daemon has the content
        assert not binding.sync(model.statics())
        assert channel.take_sent() == 0


@pytest.mark.parametrize("change", [c for c, n in SEEN_BY_ALL.items() if n], ids=lambda change: change.__name__)
def test_a_first_change_says_so_and_costs_what_changed(
    change: Change, weights: ResidentWeights, channel: HostChannel
) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    channel.take_sent()
    change(model)
    assert binding.sync(model.statics())
    assert channel.take_sent() == SEEN_BY_ALL[change]


def test_refresh_finds_what_sampling_missed(channel: HostChannel) -> None:
    weights = ResidentWeights(channel, SampledFingerprint())
    model = Model()
    binding = weights.bind(model.statics(), sampled=True)
    channel.take_sent()
    one_element_through_numpy(model)
    assert not binding.sync(model.statics())  # the gap that refresh is for
    assert weights.refresh([*model.statics(), torch.zeros(3)])
    assert channel.take_sent() == CHUNK_NBYTES
    assert_same(channel, binding, model.statics())
    assert not weights.refresh(model.statics())


def test_tied_weights_are_one_resident(weights: ResidentWeights, channel: HostChannel) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    assert binding.handles[0] == binding.handles[4]
    assert len(channel.resident) == 5
    assert channel.take_sent() == (BIG * BIG + BIG + 64 + 8) * 4 + 8


def test_a_content_already_there_is_adopted_and_never_sent(weights: ResidentWeights, channel: HostChannel) -> None:
    first, second = Model(), Model()
    one = weights.bind(first.statics())
    channel.take_sent()
    two = weights.bind(second.statics())
    assert channel.take_sent() == 0
    assert set(one.handles).isdisjoint(two.handles)
    with torch.no_grad():
        first.big.bias.zero_()
    one.sync(first.statics())
    two.sync(second.statics())
    assert_same(channel, one, first.statics())
    assert_same(channel, two, second.statics())


def test_weights_made_in_the_daemon_are_bound_as_they_are_and_later_writes_follow(
    weights: ResidentWeights, channel: HostChannel
) -> None:
    model = Model()
    tensors = list(dict.fromkeys(model.statics()))
    other = ResidentWeights(channel, SampledFingerprint())
    made = other.bind(tensors)
    channel.take_sent()
    channel.queries = 0
    weights.assume(tensors, made.handles)
    binding = weights.bind(model.statics())
    assert set(binding.handles) == set(made.handles)
    assert (channel.take_sent(), channel.queries) == (0, 0)
    with torch.no_grad():
        model.small.weight.add_(1)
        model.big.weight[0, 0] = 5
    binding.sync(model.statics())
    assert_same(channel, binding, model.statics())
    assert 0 < channel.take_sent() <= CHUNK_NBYTES + model.small.weight.nbytes


def test_equal_contents_in_one_binding_are_sent_once_but_have_handles_of_their_own(
    weights: ResidentWeights, channel: HostChannel
) -> None:
    tensors: list[torch.Tensor] = [torch.ones(5000), torch.ones(5000)]
    binding = weights.bind(tensors, mutated=frozenset({0}))
    assert len(set(binding.handles)) == 2
    assert channel.take_sent() == 20_000


def test_binding_asks_the_daemon_once(weights: ResidentWeights, channel: HostChannel) -> None:
    weights.bind(Model().statics())
    assert channel.queries == 1


def test_two_bindings_share_residents_and_each_sees_the_change(weights: ResidentWeights, channel: HostChannel) -> None:
    model = Model()
    prefill, decode = weights.bind(model.statics()), weights.bind(model.statics()[::-1])
    assert prefill.handles == decode.handles[::-1]
    model.big.weight.data = torch.randn(BIG, BIG)
    model.small.weight.data.add_(1)
    decode.sync(model.statics()[::-1])
    assert_same(channel, decode, model.statics()[::-1])
    prefill.sync(model.statics())
    assert_same(channel, prefill, model.statics())
    assert prefill.handles == decode.handles[::-1]


def test_a_second_binding_sees_what_changed_since_the_first_looked(
    weights: ResidentWeights, channel: HostChannel
) -> None:
    model = Model()
    weights.bind(model.statics())
    one_element_without_grad(model)
    second = weights.bind(model.statics())
    assert_same(channel, second, model.statics())


def test_generation_rises_exactly_when_handles_change(weights: ResidentWeights) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    before = binding.handles
    add_through_data(model)
    binding.sync(model.statics())
    assert (binding.generation, binding.handles) == (0, before)
    replace_parameter(model)
    binding.sync(model.statics())
    assert binding.generation == 1
    assert [i for i, (a, b) in enumerate(zip(before, binding.handles, strict=True)) if a != b] == [1]


def test_a_dead_model_is_not_kept_alive_and_its_handles_are_freed(
    weights: ResidentWeights, channel: HostChannel
) -> None:
    model, other = Model(), Model(seed=1)
    weights.bind(model.statics())
    binding = weights.bind(other.statics())
    del model
    gc.collect()
    binding.sync(other.statics())
    assert set(channel.resident) == set(binding.handles)
    assert_same(channel, binding, other.statics())


def test_models_that_take_each_others_place_in_memory_are_told_apart(
    weights: ResidentWeights, channel: HostChannel
) -> None:
    def fresh(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [torch.randn(64), torch.randn(300, 300), torch.randn(BIG, BIG)]

    tensors = fresh(0)
    binding = weights.bind(tensors)
    for seed in range(1, 8):
        tensors.clear()  # the allocator likes to hand the same memory, and Python the same id, to the next ones
        tensors = fresh(seed)
        binding.sync(tensors)
        assert_same(channel, binding, tensors)
    assert len(channel.resident) == 3


def test_writes_through_views_that_share_memory_reach_all_of_them(
    weights: ResidentWeights, channel: HostChannel
) -> None:
    base = torch.randn(600, 600)
    tensors = [base, base[100:200], base[:, 50:60], base.t(), base.view(-1)]
    binding = weights.bind(tensors)
    assert_same(channel, binding, tensors)
    base.data.mul_(3)
    assert binding.sync(tensors)
    assert_same(channel, binding, tensors)


def test_one_memory_under_two_tensor_objects_survives_either(weights: ResidentWeights, channel: HostChannel) -> None:
    base = torch.randn(5000)
    alias = base.detach()
    one, two = weights.bind([base]), weights.bind([alias])
    assert one.handles == two.handles
    del base
    gc.collect()
    alias.numpy()[:] = 1
    two.sync([alias])
    assert_same(channel, two, [alias])


def test_odd_tensors_can_be_bound(weights: ResidentWeights, channel: HostChannel) -> None:
    tensors = [
        torch.empty(0, 3),
        torch.empty(0, 3),
        torch.tensor(1.5),
        torch.ones(1).expand(4, 4),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.arange(6).view(2, 3).t(),
        torch.zeros(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.bfloat16),
    ]
    binding = weights.bind(tensors)
    assert_same(channel, binding, tensors)
    tensors[3].data[0, 0] = 2
    assert binding.sync(tensors)
    assert_same(channel, binding, tensors)
    assert not weights.bind([]).sync([])


def test_statistics_written_back_are_not_sent_again(weights: ResidentWeights, channel: HostChannel) -> None:
    statistics = torch.zeros(64)
    others: list[torch.Tensor] = [torch.ones(64)]
    binding = weights.bind([*others, statistics], mutated=frozenset({1}))
    for step in range(1, 4):
        channel.resident[binding.handles[1]][1][:] = torch.full((64,), float(step)).numpy().tobytes()
        statistics.copy_(channel.read(binding.handles[1]))
        binding.mark_in_sync()
        channel.take_sent()
        assert not binding.sync([*others, statistics])
        assert channel.take_sent() == 0
    statistics.data[5] = 77
    assert binding.sync([*others, statistics])
    assert_same(channel, binding, [*others, statistics])


def test_marking_one_slot_in_sync_forgets_no_write_to_another(weights: ResidentWeights, channel: HostChannel) -> None:
    both = torch.zeros(2, 16)
    tensors = [both[0], both[1]]  # on one page
    binding = weights.bind(tensors, mutated=frozenset({0}))
    tensors[1].data[3] = 1
    binding.mark_in_sync()
    assert binding.sync(tensors)
    assert_same(channel, binding, tensors)


def test_after_a_failed_upload_the_next_sync_repairs_everything(weights: ResidentWeights, channel: HostChannel) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    for change in (add_through_data, replace_parameter, swap_data):
        change(model)
        channel.fail_next_upload = True
        with pytest.raises(TimeoutError):
            binding.sync(model.statics())
        assert binding.sync(model.statics())
        assert_same(channel, binding, model.statics())


def test_foreign_writes_on_a_shared_page_send_nothing(weights: ResidentWeights, channel: HostChannel) -> None:
    page = torch.zeros(1024)
    tensors = [page[:100]]
    binding = weights.bind(tensors)
    channel.take_sent()
    page[500] = 1
    assert not binding.sync(tensors)
    assert channel.take_sent() == 0


def test_two_sessions_with_one_tracker_both_see_a_write(tracker: WriteTracker) -> None:
    channels = [HostChannel(), HostChannel()]
    sessions = [ResidentWeights(each, tracker) for each in channels]
    model = Model()
    bindings = [session.bind(model.statics()) for session in sessions]
    add_through_data(model)
    for each, binding in zip(channels, bindings, strict=True):
        assert binding.sync(model.statics())
        assert_same(each, binding, model.statics())


def test_long_uploads_show_progress(
    tracker: WriteTracker, channel: HostChannel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_genie.runtime.weights.resident_store.LONG_NBYTES", 1000)
    weights = ResidentWeights(channel, tracker, progress=True)
    tensors = [torch.randn(500), torch.randn(600)]
    assert_same(channel, weights.bind(tensors), tensors)
    assert channel.take_sent() == 4400
    assert capsys.readouterr().out == ""


def test_a_tensor_elsewhere_than_in_cpu_memory_is_refused(weights: ResidentWeights) -> None:
    with pytest.raises(TypeError, match="meta"):
        weights.bind([torch.empty(3, device="meta")])


def test_a_deep_copy_is_another_weight(weights: ResidentWeights, channel: HostChannel) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    twin = copy.deepcopy(model)
    add_through_data(twin)
    binding.sync(twin.statics())
    assert_same(channel, binding, twin.statics())
    binding.sync(model.statics())
    assert_same(channel, binding, model.statics())


def test_after_a_failure_every_weight_gets_a_new_handle_and_nothing_is_sent_that_is_there(
    channel: HostChannel, weights: ResidentWeights
) -> None:
    model = Model()
    binding = weights.bind(model.statics())
    handles, generation = binding.handles, binding.generation
    channel.take_sent()
    channel.doubtful = True
    assert binding.sync(model.statics())
    assert not set(handles) & set(binding.handles)
    assert binding.generation > generation
    assert channel.take_sent() == 0
    assert set(channel.resident) == set(binding.handles), "the old ones were given up"
    assert_same(channel, binding, model.statics())
    assert not binding.sync(model.statics())


def test_what_a_failed_program_would_have_written_is_made_anew_from_the_local_tensor(
    channel: HostChannel, weights: ResidentWeights
) -> None:
    model = Model()
    binding = weights.bind(model.statics(), mutated=frozenset({5}))
    handles = binding.handles
    channel.resident[handles[5]][1][:] = b"\1" * 8  # half written, or spoiled
    binding.forget_written()
    assert binding.sync(model.statics())
    assert binding.handles[:5] == handles[:5]
    assert binding.handles[5] != handles[5]
    assert_same(channel, binding, model.statics())
