"""One eager operator as a Program: shared by calls that differ in numbers only, and right to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.tensor.operator_lowering import ABSENT, flatten_call, lower_operator

CPU = torch.device("cpu")
aten = torch.ops.aten


class ThroughPrograms(TorchDispatchMode):
    """Runs every operator as a Program of its own, beside the operator itself, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        structure, tensors, scalars = flatten_call(func, args, kwargs)
        copies = [tensor.clone() for tensor in tensors]
        state = torch.get_rng_state()
        result = func(*args, **kwargs)
        layout = [_length(r) for r in (result if isinstance(result, tuple) else [result])]
        program = lower_operator(func, structure, layout if func._schema.returns else ()).program
        torch.set_rng_state(state)
        sent = resolve_program(p.decode_program(p.encode_program(program)), CPU)
        found = compile_program(sent, ())([*copies, *scalars])
        written = any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns)
        expected = [] if written or not func._schema.returns else _leaves(result)
        if "empty" in str(func):  # whatever lay in memory
            expected, found = [r.shape for r in expected], [r.shape for r in found]
        same = zip([*found, *copies], [*expected, *tensors], strict=True)
        assert all(_equal(one, other) for one, other in same), f"{func} differs"
        self.seen.add(str(func))
        return result


def _length(result: Any) -> int:
    return ABSENT if result is None else len(result) if isinstance(result, list) else -1


def _leaves(result: Any) -> list[Any]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if leaf is not None]


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other or bool(one == other)
    return one.dtype == other.dtype and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def test_gradients_that_nobody_asks_for_are_no_results() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(6))
    model[1].weight.requires_grad_(False)
    through = ThroughPrograms()
    with through:
        model(torch.randn(3, 2, 8)).sum().backward()
        model[2](torch.randn(3, 6)).sum().backward()
    assert model[0].weight.grad is not None
    assert {"aten.convolution_backward.default", "aten.native_layer_norm_backward.default"} <= through.seen


def test_a_training_step_one_operator_at_a_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True)
    through = ThroughPrograms()
    with through:
        for _ in range(2):
            loss = nn.functional.cross_entropy(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 0, 1]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert {"aten.addmm.default", "aten.gelu_backward.default", "aten._foreach_mul_.Scalar"} <= through.seen


def test_views_writes_and_lists_one_operator_at_a_time() -> None:
    through = ThroughPrograms()
    with through:
        x = torch.arange(24.0).reshape(2, 3, 4)
        x[:, 1] = 5
        x[0, 2, 1:3].add_(torch.ones(2), alpha=2)
        x[torch.tensor([0, 1]), torch.tensor([1, 2])] = torch.zeros(4)
        a, b, c = x.split(1, dim=1)
        torch.cat([c, a, b], 1).masked_fill(x > 3, True)
        x.transpose(0, 2).contiguous().view(4, -1).topk(2)
        torch.full((2,), 1 + 2j).abs()
        torch.empty(3).normal_(1.0, 2.0)
    assert {"aten.split.Tensor", "aten.index_put_.default", "aten.normal_.default"} <= through.seen


def test_calls_that_differ_in_numbers_share_a_structure() -> None:
    x = torch.zeros(3, 200)
    one, _, first = flatten_call(aten.select.int, (x, 1, 128), {})
    two, _, second = flatten_call(aten.select.int, (torch.ones(5, 7), 1, 129), {})
    assert one == two
    assert hash(one) == hash(two)
    assert (first, second) == ([1, 128], [1, 129])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((True,), (False,)),
        ((None,), (0,)),
        (([1, 2],), ([1, 2, 3],)),
        ((1 + 0j,), (True,)),
        ((torch.float32,), (torch.float64,)),
        (("mean",), ("sum",)),
    ],
    ids=str,
)
def test_calls_that_differ_in_more_than_numbers_do_not(one: tuple, other: tuple) -> None:
    assert flatten_call(aten.add.Tensor, one, {})[0] != flatten_call(aten.add.Tensor, other, {})[0]


def test_keyword_order_and_devices_do_not_matter() -> None:
    size = ([2, 3],)
    one = flatten_call(aten.zeros.default, size, {"dtype": torch.int64, "device": CPU, "pin_memory": False})
    other = flatten_call(aten.zeros.default, size, {"device": torch.device("meta"), "dtype": torch.int64})
    assert one == other


def test_a_write_to_self_has_no_outputs() -> None:
    x = torch.zeros(2)
    structure, _, _ = flatten_call(aten.add_.Tensor, (x, x), {"alpha": 2})
    program = lower_operator(aten.add_.Tensor, structure).program
    assert program.outputs == ()
    assert program.mutated_inputs == (0,)


def test_an_operator_outside_the_table_is_refused() -> None:
    structure, _, _ = flatten_call(aten.set_.source_Tensor, (torch.zeros(1), torch.zeros(1)), {})
    with pytest.raises(UnsupportedOperator, match=r"aten\.set_\.source_Tensor"):
        lower_operator(aten.set_.source_Tensor, structure)
