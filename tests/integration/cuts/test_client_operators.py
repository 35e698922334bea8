"""Operators that only the client has: graphs are cut around them, with the bits, the order and the errors of eager."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.errors import ClientOperatorWarning, UnsupportedOperator
from dynamo_genie.explain.records import from_json
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.integration.compare import read, same
from tests.integration.conftest import Compile

pytestmark = [
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
    pytest.mark.filterwarnings("ignore::dynamo_genie.errors.ClientOperatorWarning"),
]

own = torch.ops.genie_client


@torch.library.custom_op("genie_client::scale", mutates_args=())
def scale(x: Tensor) -> Tensor:
    return x * 1.5 + x.sum()


@torch.library.custom_op("genie_client::pair", mutates_args=())
def pair(x: Tensor) -> tuple[Tensor, Tensor]:
    return x + 1, (x * 2).t().contiguous()


@torch.library.custom_op("genie_client::bump", mutates_args=("target",))
def bump(target: Tensor, x: Tensor) -> Tensor:
    target.add_(x.sum())
    return x * 2


@torch.library.custom_op("genie_client::noise", mutates_args=())
def noise(x: Tensor) -> Tensor:
    return x + torch.rand(x.shape)


@torch.library.custom_op("genie_client::positive", mutates_args=())
def positive(x: Tensor) -> Tensor:
    return x[x > 0]


@torch.library.custom_op("genie_client::strict", mutates_args=())
def strict(x: Tensor) -> Tensor:
    if bool((x < 0).any()):
        raise ValueError("strict wants no negative number")
    return x.sqrt()


@torch.library.custom_op("genie_client::meets", mutates_args=())
def meets(x: Tensor) -> Tensor:
    MEETING[0]()
    return x.clone()


MEETING: list[Callable[[], object]] = [lambda: None]


@torch.library.register_fake("genie_client::positive")
def _(x: Tensor) -> Tensor:
    return x.new_empty(torch.library.get_ctx().new_dynamic_size())


@torch.library.register_fake("genie_client::pair")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[::-1])


@torch.library.register_fake("genie_client::bump")
def _(target: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


for simple in ("scale", "noise", "strict", "meets"):
    torch.library.register_fake(f"genie_client::{simple}", torch.empty_like)
torch.library.register_autograd(
    "genie_client::scale",
    lambda ctx, grad: own.scale(grad) * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),
)


def both(function: Callable[..., Any], *arguments: Any, calls: int = 2, **options: Any) -> None:
    """Asserts that results and arguments end as under `aot_eager`, and so does the generator."""
    ways = [torch.compile(copy.deepcopy(function), backend=backend, **options) for backend in ("aot_eager", genie)]
    for number in range(calls):
        outcomes = []
        for way in ways:
            copies = copy.deepcopy(arguments)
            torch.manual_seed(number)
            outcomes.append((way(*copies), copies, torch.get_rng_state()))
        same(outcomes[1], outcomes[0])


def counted(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What a call returned, and what it moved."""
    dynamo_genie.reset_stats()
    result = call()
    return result, dynamo_genie.stats()["total"]


class Layer(nn.Module):
    """Attention over a growing cache, with an operator of the client's on its way out."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = torch.cat([keys, self.key(x)], 1), torch.cat([values, self.value(x)], 1)
        seen = nn.functional.scaled_dot_product_attention(self.query(x), keys, values)
        return self.out(own.scale(seen)) + x, keys, values


def test_caches_and_weights_stay_where_they_are_while_a_loop_generates(compiled: Compile) -> None:
    layer, start = Layer().eval(), torch.randn(2, 3, 64)
    outcomes = []
    for call in (torch.compile(layer, backend="aot_eager", dynamic=True), compiled(layer, dynamic=True)):
        with torch.no_grad():
            x, keys, values = call(start, torch.zeros(2, 40, 64), torch.zeros(2, 40, 64))
            for _ in range(3):
                (x, keys, values), moved = counted(lambda: call(x[:, -1:], keys, values))  # noqa: B023
        outcomes.append((read(x), read(keys), read(values)))
    same(outcomes[1], outcomes[0])
    assert isinstance(keys, RemoteTensor)
    assert (moved["round_trips"], moved["fetches"], moved["client_calls"]) == (1, 1, 1)
    assert moved["received"]["activation"] == 2 * 64 * 4
    assert moved["received_total"] - moved["received"]["activation"] < 200
    assert moved["sent"]["weight"] == moved["sent"]["kv_cache"] == 0
    assert moved["sent_total"] < 2 * 64 * 4 + 1000


@pytest.mark.parametrize(
    ("function", "round_trips", "calls"),
    [
        (lambda x, w: own.scale(x) @ w, 0, 1),
        (lambda x, w: own.scale(x.t() * 2) @ w, 0, 1),  # what leads there from what is here is done here
        (lambda x, w: own.scale(x @ w), 1, 1),
        (lambda x, w: own.scale(own.scale(x @ w) * 2 + 1) @ w, 1, 2),  # little work between two of them, too
        (lambda x, w: own.scale(own.scale(x @ w) @ w) @ w, 2, 3),
        (lambda x, w: (own.scale(x @ w) + own.scale(w @ x)) @ w, 1, 2),
        (lambda x, w: own.scale(own.scale(x)), 0, 0),
        (lambda x, w: own.pair(x @ w)[1][1:] @ w, 1, 2),
        (lambda x, w: ((w @ w) @ own.pair(x @ w)[0], (w @ w) @ own.scale(w.t())), 1, 2),
    ],
)
def test_a_graph_is_cut_as_seldom_as_can_be(
    compiled: Compile, function: Callable[..., Any], round_trips: int, calls: int
) -> None:
    x, w = torch.randn(8, 8), torch.randn(8, 8)
    both(function, x, w, calls=1)
    call = compiled(function)
    call(x, w)
    _, moved = counted(lambda: call(x, w))
    assert (moved["round_trips"], moved["calls"]) == (round_trips, calls)


def test_results_keep_the_memory_that_they_share(compiled: Compile) -> None:
    def views(x: Tensor) -> tuple[Tensor, ...]:
        made = own.scale(x @ x)
        far = x @ made.t()
        return made, made.t(), made[1:], far, far[0]

    def write(way: Callable[..., Any]) -> Any:
        results = way(torch.ones(4, 4))
        results[1].mul_(3)
        results[4].add_(1)
        return read(results)

    same(write(compiled(views)), write(torch.compile(views, backend="aot_eager")))


def test_what_is_written_is_seen_where_it_was_written(compiled: Compile) -> None:
    def through_a_view(x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        out = own.bump(cache[1:3], x @ x)
        cache[0].mul_(2)
        return out @ x, cache.sum(0)

    def both_sides(x: Tensor, mine: Tensor, other: Tensor) -> Tensor:
        mine.copy_(own.scale(x @ x))
        other.add_((mine @ x)[0])
        own.bump(mine, other)
        return mine + other

    with torch.no_grad():
        both(through_a_view, torch.randn(4, 4), torch.randn(4, 4))
        both(both_sides, torch.randn(4, 4), torch.zeros(4, 4), torch.ones(4))
        given = [torch.randn(4, 4), torch.zeros(4, 4), torch.ones(4)]
        there = [compiled(lambda t: t * 1)(value) for value in given]
        expected = torch.compile(both_sides, backend="aot_eager")(*given)
        same(read((compiled(both_sides)(*there), there)), (expected, given))


def test_a_weight_that_an_operator_writes_is_the_programs_own(compiled: Compile) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x) + self.seen
            return self.last(own.bump(self.seen, hidden))

    torch.manual_seed(1)
    models = [Counting().requires_grad_(False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ways = torch.compile(models[0], backend="aot_eager"), compiled(models[1])
    for _ in range(3):
        x = torch.randn(2, 4)
        same(read(ways[1](x)), ways[0](x))
    same(models[1].seen, models[0].seen)


def test_gradients_go_back_through_operators_of_the_client(compiled: Compile) -> None:
    torch.manual_seed(2)
    models = [nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    outcomes = []
    for model, way in zip(models, (lambda f: torch.compile(f, backend="aot_eager"), compiled), strict=True):
        call = way(lambda x, model=model: own.scale(model[2](own.scale(model[0](x)).relu())) * 2)
        optimizer = torch.optim.SGD(model.parameters(), 1e-6)
        for step in range(3):
            torch.manual_seed(step)
            x = torch.randn(3, 6, requires_grad=True)
            call(x).sum().backward()
            gradients = [x.grad, *(p.grad.clone() for p in model.parameters())]
            optimizer.step()
            optimizer.zero_grad()
        outcomes.append((gradients, list(model.parameters())))
    same(read(outcomes[1]), read(outcomes[0]))


def test_random_numbers_are_drawn_in_the_order_of_the_program() -> None:
    def drawing(x: Tensor) -> tuple[Tensor, ...]:
        first = nn.functional.dropout(x @ x, 0.5)
        second = own.noise(x)  # independent of the first, and drawn after it
        third = torch.rand_like(x) @ x
        fourth = own.noise(third)
        return first, second, third, fourth, torch.randn(3)

    both(drawing, torch.ones(4, 4), calls=3)


def test_sizes_are_told_and_need_no_tensor(compiled: Compile) -> None:
    def sized(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.cat([x, x]) @ w
        rows = wide.shape[0]
        return own.scale(x.new_ones(rows + 1, 4)) @ w, own.scale(wide[: rows // 3]) * rows

    w = torch.randn(4, 4)
    ways = torch.compile(sized, backend="aot_eager", dynamic=True), compiled(sized, dynamic=True)
    for rows in (3, 5, 8):
        x = torch.randn(rows, 4)
        found, moved = counted(lambda: ways[1](x, w))  # noqa: B023
        assert moved["received"]["activation"] == 2 * rows // 3 * 16
        same(read(found), ways[0](x, w))


def test_a_size_that_depends_on_the_data_of_the_client() -> None:
    def choosing(x: Tensor) -> tuple[Tensor, Tensor]:
        chosen = own.positive(x @ x)
        return chosen * 2, (chosen[:, None] * x.new_ones(chosen.shape[0], 3)).sum(0)

    both(choosing, torch.randn(5, 5), fullgraph=True)


def test_what_cannot_be_sent_stays_with_the_client() -> None:
    def tiny(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        packed = (x @ w).abs().to(torch.float8_e8m0fnu)
        return packed.float() @ w, packed

    x, w = torch.randn(4, 4), torch.randn(4, 4)
    both(tiny, x, w)


def test_an_operator_that_raises_raises_itself_and_nothing_is_lost(compiled: Compile) -> None:
    norm = nn.BatchNorm1d(4)

    def strict_rows(x: Tensor) -> Tensor:
        return own.strict(norm(x) * 0 + x[:1]) @ x.t()

    call = compiled(strict_rows)
    with torch.no_grad():
        good, bad = torch.ones(3, 4), -torch.ones(3, 4)
        expected = read(call(good))
        counted_before = norm.num_batches_tracked.item()
        with pytest.raises(ValueError, match="strict wants no negative number"):
            call(bad)
        norm.reset_running_stats()
        norm.num_batches_tracked.fill_(counted_before)
        same(read(call(good)), expected)
        twin = nn.BatchNorm1d(4)
        twin(good)
        same(norm.running_mean, twin.running_mean)


def test_other_threads_may_use_the_daemon_while_an_operator_runs(compiled: Compile) -> None:
    def work() -> None:
        found.append((remote + 1).sum().item())

    def meet() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)

    found: list[float] = []
    remote = compiled(lambda t: t * 2)(torch.ones(4))
    call = compiled(lambda x: own.meets(x @ x) @ x)
    MEETING[0] = meet
    try:
        same(read(call(torch.ones(2, 2))), torch.full((2, 2), 4.0))
    finally:
        MEETING[0] = lambda: None
    assert found == [12.0] * len(found) and found


@pytest.mark.parametrize("mode", ["naive", "remote_cache", "handle", "local"])
def test_the_other_modes_do_it_too(mode: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)

    def function(x: Tensor) -> Tensor:
        return model[1](own.scale(model[0](x)))

    x = torch.randn(2, 4)
    call = torch.compile(function, backend=genie, options={"mode": mode})
    for _ in range(2):
        same(read(call(x)), torch.compile(function, backend="aot_eager")(x))


def test_an_operator_is_announced_once_with_its_line_and_counted(compiled: Compile) -> None:
    @torch.library.custom_op("genie_client::announced", mutates_args=())
    def announced(x: Tensor) -> Tensor:
        return x.clone()

    announced.register_fake(torch.empty_like)

    def use(x: Tensor) -> Tensor:
        return own.announced(x @ x) @ x  # the line to name

    call = compiled(use)
    with pytest.warns(ClientOperatorWarning) as heard:
        call(torch.ones(16, 16))
    [warning] = heard
    assert warning.filename == __file__
    assert "the line to name" in open(__file__).readlines()[warning.lineno - 1]  # noqa: SIM115
    assert "operator genie_client.announced.default" in str(warning.message)
    assert "waits for the daemon once, fetches 1.0 KiB and sends 1.0 KiB" in str(warning.message)
    dynamo_genie.reset_stats()
    for _ in range(3):
        call(torch.ones(16, 16))
    [(name, count)] = dynamo_genie.stats()["client_operators"].items()
    assert name.startswith("genie_client.announced.default (File") and "the line to name" in name
    assert count == dynamo_genie.stats()["total"]["client_calls"] == 3


def test_the_plan_shows_the_cut_and_foretells_its_bytes(tmp_path: Path) -> None:
    def use(x: Tensor, w: Tensor) -> Tensor:
        return own.scale(x @ w) @ w  # the line to name

    call = torch.compile(use, backend=genie, options={"debug_dir": str(tmp_path)})
    for _ in range(2):
        call(torch.ones(300, 300), torch.ones(300, 300)).sum().item()
    [folder] = tmp_path.iterdir()
    report = from_json((folder / "plan.json").read_bytes())
    [placement] = report.placements
    daemon = placement.partitions[0].device
    assert [p.device for p in placement.partitions] == [daemon, "client", daemon]
    assert [(c.source, c.target, c.nbytes) for c in placement.cuts] == [
        (daemon, "client", 360_000),
        ("client", daemon, 360_000),
    ]
    assert "operator genie_client.scale.default cannot run in a daemon and runs on" in placement.reasons[0]
    assert placement.measured is not None
    assert placement.measured.last.predicted == placement.measured.last.measured
    sent = placement.measured.last.measured.sent
    assert (sent["input"], sent["activation"]) == (2 * 360_000, 360_000)  # `w` is read on both sides of the cut
    assert [use.partition for use in placement.measured.engines] == [0, 2]
    assert "the line to name" in (folder / "plan.txt").read_text()
    assert "the line to name" in (folder / "report.html").read_text()


def test_a_program_may_refuse_them() -> None:
    def use(x: Tensor) -> Tensor:
        return own.scale(x @ x)  # the line to name

    call = torch.compile(use, backend=genie, options={"unsupported": "error"})
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="the line to name") as caught:
        call(torch.ones(2, 2))
    error = caught.value.inner_exception
    assert isinstance(error, UnsupportedOperator)
    assert "genie_client.scale.default" in str(error) and "unsupported='client'" in str(error)


def test_eager_operators_that_no_daemon_runs_are_announced_and_counted_too(
    compiled: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    @torch.library.custom_op("genie_client::eager", mutates_args=())
    def eager(x: Tensor) -> Tensor:
        return x + 1

    eager.register_fake(torch.empty_like)
    result = compiled(lambda x: x @ x)(torch.ones(2, 2))
    dynamo_genie.reset_stats()
    with pytest.warns(ClientOperatorWarning, match=r"operator genie_client\.eager\.default") as heard:
        found = [read(own.eager(result)) for _ in range(3)]
    same(found, [torch.full((2, 2), 3.0)] * 3)
    assert [one.filename for one in heard] == [__file__]
    assert list(dynamo_genie.stats()["client_operators"].values()) == [3]
    monkeypatch.setenv("GENIE_UNSUPPORTED", "error")
    with pytest.raises(UnsupportedOperator, match=r"genie_client\.eager\.default"):
        own.eager(result)


def test_a_part_of_a_result_of_another_call_is_written_here(compiled: Compile) -> None:
    def bump_rows(x: Tensor) -> Tensor:
        return own.bump(x[1:], x[:1] * 2) + x[1:]

    run, make = compiled(bump_rows), compiled(lambda x: x + 1)
    x = torch.arange(6.0).view(3, 2)
    result, expected = make(x), x + 1
    for _ in range(2):
        same(run(result), bump_rows(expected))
        same(result, expected)
