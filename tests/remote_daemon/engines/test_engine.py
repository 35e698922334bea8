"""The eager engine: the same numbers as PyTorch, values that die early, and errors that name the node."""

import gc
import weakref
from typing import Any

import pytest
import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import NodeError
from dynamo_genie.remote_daemon.operators import attention
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.remote_daemon.operators.table import _as_on_cpu, _overloads, resolve_operator
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import ATEN, OPERATORS
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec

CPU = torch.device("cpu")
aten = torch.ops.aten


def program_of(*nodes: p.Node, outputs: tuple, n_tensors: int = 1, scalars: tuple = ()) -> p.Program:
    inputs = (p.TensorInput(),) * n_tensors + tuple(p.ScalarInput(kind) for kind in scalars)
    return p.Program(p.PROGRAM_VERSION, inputs, (), nodes, outputs)


def run(program: p.Program, *inputs: object) -> tuple:
    p.validate_program(program)
    return compile_program(resolve_program(program, CPU), ())(list(inputs))


GONE = {"aten.cholesky.default"} if torch.__version__ >= "2.14" else set()
"""Operators of the table that a newer torch no longer has."""


def test_every_operator_of_the_table_exists_here() -> None:
    assert set(ATEN) - set(_overloads()) == GONE
    for key in OPERATORS - GONE:
        assert callable(resolve_operator(key, CPU).run)


def test_a_chain_of_operators_gives_what_pytorch_gives() -> None:
    x = torch.randn(3, 4)
    program = program_of(
        p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(0)), (("alpha", 3),)),
        p.Node("aten.max.dim", (p.Ref(1), 1)),
        p.Node("getitem", (p.Ref(2), 1)),
        outputs=(p.Ref(1), p.Ref(3), None, 7),
    )
    added, index, nothing, seven = run(program, x)
    assert torch.equal(added, torch.add(x, x, alpha=3))
    assert torch.equal(index, added.max(1).indices)
    assert (nothing, seven) == (None, 7)


def test_literals_arrive_as_they_were_sent() -> None:
    program = program_of(
        p.Node("aten.full.default", (p.Items((2,)), -0.0), (("dtype", p.DtypeName("float64")),)),
        p.Node("aten.full.default", (p.Items((2,)), 0.0), (("dtype", p.DtypeName("float64")),)),
        p.Node(
            "aten.full.default",
            (p.Items((1,)), p.ComplexNumber(0.0, -2.0)),
        ),
        outputs=(p.Ref(0), p.Ref(1), p.Ref(2)),
        n_tensors=0,
    )
    minus, plus, imaginary = run(program)
    assert torch.signbit(minus).all()
    assert not torch.signbit(plus).any()
    assert imaginary.item() == -2j


def test_symbolic_sizes_are_numbers_at_run_time() -> None:
    program = program_of(
        p.Node("operator.mul", (p.Ref(1), 2)),
        p.Node("aten.view.default", (p.Ref(0), p.Items((p.Ref(2), -1)))),
        outputs=(p.Ref(3), p.Ref(2)),
        scalars=("int",),
    )
    viewed, number = run(program, torch.zeros(24), 3)
    assert viewed.shape == (6, 4)
    assert number == 6


def test_numbers_cannot_grow_without_bound() -> None:
    program = program_of(p.Node("operator.mul", (p.Ref(0), p.Ref(0))), outputs=(), n_tensors=0, scalars=("int",))
    with pytest.raises(NodeError) as caught:
        run(program, 1 << 40)
    assert isinstance(caught.value.__cause__, OverflowError)


def test_a_failure_names_its_node_and_keeps_the_class_pytorch_raised() -> None:
    program = program_of(
        p.Node("aten.abs.default", (p.Ref(0),)),
        p.Node("aten.index_select.default", (p.Ref(2), 0, p.Ref(1))),
        outputs=(p.Ref(3),),
        n_tensors=2,
    )
    with pytest.raises(NodeError) as caught:
        run(program, torch.zeros(2), torch.tensor([9]))
    assert (caught.value.node, caught.value.operator) == (1, "aten.index_select.default")
    assert isinstance(caught.value.__cause__, IndexError)


def test_values_die_after_their_last_use() -> None:
    alive: list[bool] = []
    x = torch.randn(8)
    watched = weakref.ref(x)

    class Probe(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is aten.neg.default:
                gc.collect()
                alive.append(watched() is not None)
            return func(*args, **(kwargs or {}))

    program = program_of(
        p.Node("aten.abs.default", (p.Ref(0),)), p.Node("aten.neg.default", (p.Ref(1),)), outputs=(p.Ref(2),)
    )
    inputs = [x]
    del x
    with Probe():
        compile_program(resolve_program(program, CPU), ())(inputs)
    assert inputs == []
    assert alive == [False]


def test_constants_live_from_call_to_call() -> None:
    constant = torch.tensor([2.0])
    inline = InlineTensor(TensorSpec("float32", (1,), (1,)), constant.numpy().tobytes())
    node = p.Node("aten.mul.Tensor", (p.Ref(0), p.Ref(1)))
    program = p.Program(1, (p.TensorInput(),), (inline,), (node,), (p.Ref(2),))
    execute = compile_program(resolve_program(program, CPU), [constant])
    assert execute([torch.tensor([3.0])])[0].item() == execute([torch.tensor([3.0])])[0].item() == 6.0


def test_a_program_of_twenty_thousand_nodes_compiles_and_runs() -> None:
    count = 20_000
    nodes = tuple(p.Node("aten.add.Tensor", (p.Ref(i), 1)) for i in range(count))
    (result,) = run(program_of(*nodes, outputs=(p.Ref(count),)), torch.zeros(1))
    assert result.item() == count


MISFITS = {
    "too many arguments": p.Node("aten.abs.default", (p.Ref(0), 1)),
    "a missing argument": p.Node("aten.add.Tensor", (p.Ref(0),)),
    "an unknown keyword": p.Node("aten.abs.default", (p.Ref(0),), (("out", p.Ref(0)),)),
    "an argument given twice": p.Node("aten.abs.default", (p.Ref(0),), (("self", p.Ref(0)),)),
    "text for a number": p.Node("aten.select.int", (p.Ref(0), "0", 0)),
    "a tensor for a size": p.Node("aten.select.int", (p.Ref(0), p.Ref(0), 0)),
    "a float for an index": p.Node("aten.select.int", (p.Ref(0), 0.5, 0)),
    "a list for a tensor": p.Node("aten.abs.default", (p.Items((p.Ref(0),)),)),
    "a device": p.Node("aten.full.default", (p.Items(()), 1), (("device", None),)),
    "a tensor in plain arithmetic": p.Node("operator.mul", (p.Ref(0), 2)),
    "a list in plain arithmetic": p.Node("operator.add", (p.Items(("a",)), 2)),
    "an item of a tensor": p.Node("getitem", (p.Ref(0), 0)),
    "None for a tensor": p.Node("aten.abs.default", (None,)),
}


@pytest.mark.parametrize("node", MISFITS.values(), ids=MISFITS.keys())
def test_a_node_that_does_not_fit_its_schema_is_refused_at_load(node: p.Node) -> None:
    program = program_of(node, outputs=())
    p.validate_program(program)
    with pytest.raises(ProtocolError):
        compile_program(resolve_program(program, CPU), ())


@pytest.mark.parametrize(
    ("func", "make_args"),
    [
        (aten.rand.default, lambda: ([4],)),
        (aten.bernoulli.p, lambda: (torch.full((5,), 0.5), 0.5)),
        (aten.uniform_.default, lambda: (torch.zeros(6),)),
        (aten.randn_like.default, lambda: (torch.zeros(3),)),
        (aten.native_dropout.default, lambda: (torch.ones(9), 0.5, True)),
        (aten.rrelu_with_noise.default, lambda: (torch.randn(5), torch.zeros(5), 0.1, 0.3, True)),
    ],
)
def test_random_numbers_of_an_accelerator_are_those_of_the_cpu(func, make_args) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    args = make_args()
    torch.manual_seed(1)
    expected = func(*args)
    torch.manual_seed(0)
    again = make_args()
    torch.manual_seed(1)
    found = _as_on_cpu(func, CPU)(*again)
    leaves = torch.utils._pytree.tree_leaves
    assert all(torch.equal(one, other) for one, other in zip(leaves(found), leaves(expected), strict=True))
    for one, other in zip(args, again, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)


# --- portable attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("q_len", "kv_len"), [(5, 5), (3, 7), (7, 3)])
@pytest.mark.parametrize("variant", ["plain", "causal", "scale", "mask", "blind row"])
def test_portable_attention_agrees_with_the_cpu_kernel(
    dtype: torch.dtype, kv_heads: int, q_len: int, kv_len: int, variant: str
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, q_len, 8).to(dtype)
    key, value = (torch.randn(2, kv_heads, kv_len, 8).to(dtype) for _ in range(2))
    mask = torch.randn(2, 1, q_len, kv_len).to(dtype)
    mask[0, 0, 0] = -torch.inf if variant == "blind row" else 0.0
    options = {
        "attn_mask": mask if variant in ("mask", "blind row") else None,
        "scale": 0.3 if variant == "scale" else None,
    }
    causal = variant == "causal"
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    check = dict(check_stride=True, **tolerance)

    kernel, backward = (
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    )
    expected = kernel(query, key, value, 0.0, causal, **options)
    found = attention.attention(query, key, value, 0.0, causal, **options)
    torch.testing.assert_close(found, expected, **check)
    alone, nothing = attention.attention_output(query, key, value, 0.0, causal, **options)
    torch.testing.assert_close(alone, expected[0], **check)
    assert nothing is None

    grad = torch.randn_like(query)
    expected_grads = backward(grad, query, key, value, *expected, 0.0, causal, **options)
    found_grads = attention.attention_backward(grad, query, key, value, *found, 0.0, causal, **options)
    torch.testing.assert_close(found_grads, expected_grads, **check)


def test_causal_attention_with_a_mask_keeps_both() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    mask = torch.tensor([True, False, True, True]).expand(1, 1, 4, 4)
    expected, _ = attention.attention(query, key, value, 0.0, True, attn_mask=mask)
    found, _ = attention.attention_output(query, key, value, 0.0, True, attn_mask=mask)
    assert torch.equal(found, expected)
    unseeing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert not attention.attention_output(query, key, value, attn_mask=unseeing)[0].any()


def test_the_output_is_laid_out_like_the_query_with_a_mask_too() -> None:
    query, key = torch.randn(2, 5, 4, 8).transpose(1, 2), torch.randn(2, 4, 7, 8)
    for mask in (None, torch.zeros(2, 1, 5, 7)):
        output, _ = attention.attention_output(query, key, key, attn_mask=mask)
        assert output.stride() == query.stride()


@pytest.mark.parametrize(("read", "run"), [(0, attention.attention_output), (1, attention.attention)])
def test_a_gpu_computes_the_logsumexp_only_where_it_is_read(read: int, run: Any) -> None:
    nodes = (
        p.Node("genie.attention", (p.Ref(0), p.Ref(1), p.Ref(2))),
        p.Node("getitem", (p.Ref(3), 0)),
        p.Node("getitem", (p.Ref(3), read)),
    )
    program = p.Program(p.PROGRAM_VERSION, (p.TensorInput("float32", 4),) * 3, (), nodes, (p.Ref(4), p.Ref(5)))
    assert resolve_program(program, torch.device("cuda", 0)).operators[0].run is run
    assert resolve_program(program, torch.device("cpu")).operators[0].overload is not None


def test_portable_attention_has_no_dropout_and_says_so() -> None:
    x = torch.zeros(1, 1, 2, 8)
    with pytest.raises(ValueError, match=r"dropout_p is 0\.5"):
        attention.attention(x, x, x, 0.5)
