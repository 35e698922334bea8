"""The fixed form of a step: what has one, what has none and why, and its operators against the own form's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.operators import used_rows
from dynamo_genie.remote_daemon.operators.fixed_step import GrowingCache, NotFixed, fixed_step
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.operators.used_rows import add_count, attend_masked, attend_on, attend_varlen
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.growing_steps import CPU, IDLE, KEYS, NEW, NUMBER, OUTPUTS, STEP, VALUES, growing_step, rows

CAPACITY = 24


def changed(number: int, node: p.Node) -> tuple[p.Node, ...]:
    return (*STEP[:number], node, *STEP[number + 1 :])


def whole(content: torch.Tensor, room: float = 7.0) -> torch.Tensor:
    """Return an arena that holds rows, with something finite behind them."""
    arena = torch.full((*content.shape[:2], CAPACITY, content.shape[3]), room)
    arena[:, :, : content.shape[2]] = content
    return arena


def test_caches_numbers_and_what_is_read_no_longer() -> None:
    step = fixed_step(growing_step(), attend_masked)
    assert step.caches == (GrowingCache(KEYS, 1), GrowingCache(VALUES, 2))
    assert step.added == (NUMBER,)
    assert step.idle == {NUMBER, IDLE}
    assert step.resolved.program.mutated_inputs == (KEYS, VALUES)
    assert len(step.resolved.program.fact_of) == len(growing_step().program.fact_of) + 1


@given(held=st.integers(1, 20), new=st.integers(1, 4), batch=st.integers(1, 2), number=st.integers(-5, 1 << 40))
def test_both_forms_compute_the_same(held: int, new: int, batch: int, number: int) -> None:
    own = growing_step()
    step = fixed_step(own, attend_masked)
    keys, values, fresh = (rows(n, batch=batch, seed=i) for i, n in enumerate((held, held, new)))
    expected = compile_program(own, ())([keys, values, fresh, number, 3])
    arenas = whole(keys), whole(values)
    counts = torch.tensor([held, held, number])
    output, grown_keys, grown_values, position = compile_program(step.resolved, ())([*arenas, fresh, 0, 0, counts])
    torch.testing.assert_close(output, expected[0])
    for arena, grown, right in zip(arenas, (grown_keys, grown_values), expected[1:3], strict=True):
        assert grown.data_ptr() == arena.data_ptr()
        assert torch.equal(grown[:, :, : held + new], right)
    assert torch.equal(position, expected[3])
    assert position.dtype == expected[3].dtype


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (growing_step(outputs=(*OUTPUTS[:2], p.Ref(11))), "not returned"),
        (growing_step(changed(4, p.Node("aten.clone.default", (p.Ref(5),)))), "something else than an attention"),
        (
            growing_step(changed(3, p.Node("genie.attention", (p.Ref(7), p.Ref(5), p.Ref(6), 0.0, True)))),
            "needs no mask",
        ),
        (
            growing_step(
                changed(3, p.Node("genie.attention", (p.Ref(7), p.Ref(5), p.Ref(6)), (("attn_mask", p.Ref(NEW)),)))
            ),
            "needs no mask",
        ),
        (growing_step(changed(3, p.Node("genie.attention", (p.Ref(7), p.Ref(5), p.Ref(NEW))))), "something else"),
        (
            growing_step(changed(0, p.Node("aten.cat.default", (p.Items((p.Ref(KEYS), p.Ref(NEW), p.Ref(NEW))), 2)))),
            "joined of more",
        ),
        (growing_step(changed(2, p.Node("aten.clone.default", (p.Ref(KEYS),)))), "read before it does"),
        (growing_step(rank=None), "no input"),
        (growing_step(changed(4, p.Node("getitem", (p.Ref(8), 1)))), "something else"),
        (growing_step(changed(0, p.Node("aten.cat.default", (p.Items((p.Ref(KEYS), p.Ref(NEW))), 1)))), "dimension 1"),
    ],
)
def test_what_grows_or_is_read_in_another_way_has_no_fixed_form(step: ResolvedProgram, why: str) -> None:
    assert step.arenas.appends, "this step has no cache that grows, so nothing is tested"
    with pytest.raises(NotFixed, match=why):
        fixed_step(step, attend_masked)


def test_a_number_that_is_a_size_too_stays_what_it_is() -> None:
    nodes = changed(5, p.Node("aten.arange.default", (p.Ref(NUMBER),)))
    step = fixed_step(growing_step(nodes), attend_masked)
    assert (step.added, step.idle) == ((), {IDLE})


def test_a_program_that_spells_its_arguments_by_name_is_no_fault() -> None:
    nodes = changed(6, p.Node("aten.add.Tensor", (p.Ref(10),), (("other", p.Ref(NUMBER)),)))
    step = fixed_step(growing_step(nodes), attend_masked)
    assert (step.added, step.idle) == ((), {IDLE})
    named = p.Node("genie.attention", (p.Ref(7),), (("key", p.Ref(7)), ("value", p.Ref(7))))
    fixed_step(growing_step((*STEP, named)), attend_masked)


def test_what_views_a_window_takes_any_strides_in_both_forms() -> None:
    """A cache that is read, and lies in an arena of its own, is viewed as one dimension."""
    view = p.Node("aten.view.default", (p.Ref(NEW), p.Items((-1,))))
    own = growing_step((*STEP, view), (*OUTPUTS, p.Ref(12)))
    own = replace(own, arenas=replace(own.arenas, reshapes=frozenset({7})))
    window = rows(6)[:, :, :4]
    arenas = KVArenas(MemoryBudget(1 << 40))
    found = compile_program(fixed_step(own, attend_masked).resolved, (), arenas)(
        [whole(rows(3)), whole(rows(3)), window, 0, 0, torch.tensor([3, 3, 5])]
    )
    assert torch.equal(found[4], window.reshape(-1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("number", [0, 5, 4001])
def test_a_count_is_added_as_the_number_would_be(dtype: torch.dtype, shape: tuple[int, ...], number: int) -> None:
    tensor = torch.ones(shape).to(dtype)
    expected = tensor + number
    found = add_count(tensor, torch.tensor([7, number]), 1)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_rows_that_do_not_count_weigh_nothing_whatever_finite_values_they_hold() -> None:
    query, keys, values = rows(1, seed=4), rows(5), rows(5, seed=1)
    plain = attend_masked(query, whole(keys, 0.0), whole(values, 0.0), torch.tensor(5), None)
    other = attend_masked(query, whole(keys, 1e30), whole(values, -1e30), torch.tensor(5), None)
    for one, two in zip(plain, other, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float | None, enable_gqa: bool, seqused_k: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Compute `varlen_attn` of one sequence as its page in PyTorch's documentation describes it."""
    assert (cu_q.tolist(), cu_k.tolist()) == ([0, query.size(0)], [0, key.size(0)]) == ([0, max_q], [0, max_k])
    assert cu_q.dtype == cu_k.dtype == seqused_k.dtype == torch.int32
    assert seqused_k.shape == (1,)
    used = int(seqused_k)
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key[:used], value[:used]))
    found = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=enable_gqa)
    return found[0].transpose(0, 1)


@pytest.mark.parametrize(("batch", "dtype", "kernel"), [(1, torch.bfloat16, True), (1, torch.float32, False),
                                                        (2, torch.bfloat16, False)])  # fmt: skip
def test_torchs_kernel_reads_arenas_as_packed_sequences_where_it_can(
    batch: int, dtype: torch.dtype, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def varlen(*args: Any, **kwargs: Any) -> torch.Tensor:
        called.append(args)
        return reference(*args, **kwargs)

    keys, values = (whole(rows(9, batch=batch, seed=i)).to(dtype) for i in range(2))
    query = rows(2, batch=batch, seed=3).repeat_interleave(2, 1).to(dtype)
    used = torch.tensor(9)
    expected, _ = attend_masked(query, keys, values, used, 0.3)
    found, _ = attend_varlen(varlen)(query, keys, values, used, 0.3)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    assert bool(called) == kernel
    if kernel:
        assert called[0][1].data_ptr() == keys.data_ptr(), "the arena was copied"


def test_devices_without_that_kernel_mask() -> None:
    assert attend_on(CPU) is attend_masked


def test_a_torch_whose_kernel_takes_no_count_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import varlen

    assert attend_on(torch.device("cuda")) is not attend_masked
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value: query)
    assert used_rows.attend_on(torch.device("cuda")) is attend_masked
