"""Branches and loops in a worker: what fits them, what they compute, and which node an error names."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.engines import CUDAGRAPHS, INDUCTOR
from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.choice import choose
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import NodeError
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, resolve_program
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec

CPU = torch.device("cpu")
T, N = p.TensorInput(), p.ScalarInput("int")


def sub(inputs: tuple, *nodes: p.Node, outputs: tuple) -> p.SubProgram:
    return p.SubProgram(inputs, (), nodes, outputs)


NEGATE = sub((T,), p.Node("aten.neg.default", (p.Ref(0),)), outputs=(p.Ref(1),))
DOUBLE = sub((T,), p.Node("aten.mul.Scalar", (p.Ref(0), 2)), outputs=(p.Ref(1),))
CHOLESKY = sub(
    (T,),
    p.Node("aten.mul.Scalar", (p.Ref(0), 1)),
    p.Node("aten.cholesky.default", (p.Ref(1),)),
    outputs=(p.Ref(2),),
)
BELOW_FOUR = sub((N, T), p.Node("operator.lt", (p.Ref(0), 4)), outputs=(p.Ref(2),))
STEP = sub(
    (N, T),
    p.Node("operator.add", (p.Ref(0), 1)),
    p.Node("aten.mul.Scalar", (p.Ref(1), 2)),
    outputs=(p.Ref(2), p.Ref(3)),
)
SUMS = sub((T, T), p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(1))), outputs=(p.Ref(2), p.Ref(2)))


def program_of(node: p.Node, results: int, *subs: p.SubProgram, inputs: tuple = (T, T)) -> p.Program:
    first = len(inputs)
    items = tuple(p.Node("getitem", (p.Ref(first), i)) for i in range(results))
    outputs = tuple(p.Ref(first + 1 + i) for i in range(results))
    found = p.Program(p.PROGRAM_VERSION, inputs, (), (node, *items), outputs, subprograms=subs)
    p.validate_program(found)
    return found


def resolved(node: p.Node, results: int, *subs: p.SubProgram, inputs: tuple = (T, T)) -> ResolvedProgram:
    return resolve_program(program_of(node, results, *subs, inputs=inputs), CPU)


def node(op: str, *arguments: p.Argument) -> p.Node:
    return p.Node(f"higher_order.{op}", arguments)


def items(*arguments: p.Argument) -> p.Items:
    return p.Items(arguments)


COND = node("cond", p.Ref(0), p.SubRef(0), p.SubRef(1), items(p.Ref(1)))
LOOP = node("while_loop", p.SubRef(0), p.SubRef(1), items(p.Ref(0), p.Ref(1)), items())


def test_the_truth_value_chooses_the_branch() -> None:
    run = compile_program(resolved(COND, 1, NEGATE, DOUBLE), ())
    for chosen, expected in ((True, -3.0), (False, 6.0)):
        [found] = run([torch.tensor(chosen), torch.tensor(3.0)])
        assert found.item() == expected


def test_a_loop_runs_until_its_condition_fails_and_copies_where_it_never_holds() -> None:
    run = compile_program(resolved(LOOP, 2, BELOW_FOUR, STEP, inputs=(N, T)), ())
    count, value = run([1, torch.tensor(3.0)])
    assert (count, value.item()) == (4, 24.0)
    given = torch.tensor(3.0)
    count, value = run([9, given])
    assert (count, value.item()) == (9, 3.0)
    assert value.data_ptr() != given.data_ptr()


def test_the_steps_of_a_loop_are_stacked_for_a_backward() -> None:
    below = sub((T,), p.Node("aten.lt.Scalar", (p.Ref(0), 8)), outputs=(p.Ref(1),))
    loop = node("while_loop_stack_output", p.SubRef(0), p.SubRef(1), items(p.Ref(0)), items())
    run = compile_program(resolved(loop, 1, below, DOUBLE), ())
    assert run([torch.tensor(1.0), torch.tensor(0.0)])[0].tolist() == [2.0, 4.0, 8.0]
    assert run([torch.tensor(9.0), torch.tensor(0.0)])[0].tolist() == [9.0]


def test_a_scan_carries_and_stacks_and_a_map_stacks() -> None:
    scan = node("scan", p.SubRef(0), items(p.Ref(0)), items(p.Ref(1)), items())
    carry, rows = compile_program(resolved(scan, 2, SUMS), ())([torch.tensor(1.0), torch.tensor([1.0, 2.0, 3.0])])
    assert (carry.item(), rows.tolist()) == (7.0, [2.0, 4.0, 7.0])
    mapped = node("map_impl", p.SubRef(0), items(p.Ref(0)), items())
    [rows] = compile_program(resolved(mapped, 1, DOUBLE), ())([torch.tensor([1.0, 2.0]), torch.tensor(0.0)])
    assert rows.tolist() == [2.0, 4.0]


def test_a_constant_of_the_program_is_seen_in_a_branch() -> None:
    one = InlineTensor(TensorSpec("float32", (), ()), b"\0\0\x80?")
    plus = p.SubProgram((T,), (0,), (p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(1))),), (p.Ref(2),))
    call = node("cond", True, p.SubRef(0), p.SubRef(0), items(p.Ref(0)))
    taken = p.Node("getitem", (p.Ref(2), 0))
    program = p.Program(p.PROGRAM_VERSION, (T,), (one,), (call, taken), (p.Ref(3),), subprograms=(plus,))
    p.validate_program(program)
    [found] = compile_program(resolve_program(program, CPU), [torch.tensor(1.0)])([torch.tensor(2.0)])
    assert found.item() == 3.0


def test_an_error_names_the_node_of_the_branch_that_failed() -> None:
    run = compile_program(resolved(COND, 1, CHOLESKY, CHOLESKY), ())
    for chosen, number in ((True, 2 + 1), (False, 2 + 2 + 1)):  # the program's own nodes, then those of each branch
        with pytest.raises(NodeError) as caught:
            run([torch.tensor(chosen), torch.ones(2, 2)])
        assert (caught.value.node, caught.value.operator) == (number, "aten.cholesky.default")


TWO = sub((T,), p.Node("aten.neg.default", (p.Ref(0),)), outputs=(p.Ref(1), p.Ref(1)))
MISFITS = {
    "a list in place of a branch": (
        node("cond", p.Ref(0), items(), p.SubRef(0), items(p.Ref(1))), (NEGATE,), "in this order"
    ),
    "too few operands": (node("cond", p.Ref(0), p.SubRef(0), p.SubRef(0), items()), (NEGATE,), "1 values, and gets 0"),
    "a number for a truth value": (
        node("cond", 1, p.SubRef(0), p.SubRef(0), items(p.Ref(1))), (NEGATE,), "in this order"
    ),
    "branches of unlike results": (COND, (NEGATE, TWO), "return 1 and 2 values"),
    "a tensor for a number": (LOOP, (BELOW_FOUR, STEP), "wants a number, not a tensor"),
    "a body that carries too little": (
        node("while_loop", p.SubRef(0), p.SubRef(0), items(p.Ref(0)), items()), (TWO, TWO), "condition returns 2"
    ),
    "a body that carries too much": (
        node("while_loop", p.SubRef(0), p.SubRef(1), items(p.Ref(0)), items()), (NEGATE, TWO), "2 values and carries 1"
    ),
    "nothing to map over": (node("map_impl", p.SubRef(0), items(), items(p.Ref(0))), (NEGATE,), "nothing to map"),
    "nothing to scan": (node("scan", p.SubRef(0), items(p.Ref(0)), items(), items()), (NEGATE,), "nothing to scan"),
    "a scan that drops its carry": (
        node("scan", p.SubRef(0), items(p.Ref(0), p.Ref(1)), items(p.Ref(0)), items()),
        (sub((T, T, T), outputs=(p.Ref(0),)),), "returns 1 values and carries 2",
    ),
    "a misfit inside a branch": (
        COND, (NEGATE, sub((T,), p.Node("aten.neg.default", ("text",)), outputs=(p.Ref(1),))), "wants Tensor"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "subs", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_is_refused(call: p.Node, subs: tuple, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        resolved(call, 1, *subs)


def test_engines_that_compile_or_record_leave_branches_to_the_eager_one() -> None:
    traits = traits_of(resolved(COND, 1, NEGATE, DOUBLE))
    assert (traits.branches, traits.reads_data) == ("higher_order.cond", "higher_order.cond")
    for wanted, device in ((INDUCTOR, "cpu"), (CUDAGRAPHS, "cuda")):
        choice = choose(wanted, traits, device)
        assert (choice.engine, choice.refused) == ("eager", True)
        assert "higher_order.cond runs graphs of its own" in choice.reason
