"""Sub-programs of a Program: they survive the wire, and none that could run itself, or is malformed, gets through."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_NODES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec

ONE = InlineTensor(TensorSpec("float32", (1,), (1,)), bytes(4))
NEGATED = p.SubProgram((p.TensorInput(),), (), (p.Node("aten.neg.default", (p.Ref(0),)),), (p.Ref(1),))
SUMMED = p.SubProgram((p.TensorInput(),), (0,), (p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(1))),), (p.Ref(2),))


def cond(true: int, false: int, *operands: p.Argument) -> p.Node:
    return p.Node("higher_order.cond", (p.Ref(0), p.SubRef(true), p.SubRef(false), p.Items(operands)))


def program_of(node: p.Node, *subprograms: p.SubProgram) -> p.Program:
    taken = p.Node("getitem", (p.Ref(3), 0))
    inputs = (p.TensorInput(), p.TensorInput())
    return p.Program(p.PROGRAM_VERSION, inputs, (ONE,), (node, taken), (p.Ref(4),), subprograms=subprograms)


def nested(depth: int) -> tuple[p.SubProgram, ...]:
    """Sub-programs of which each runs the one before."""
    found = [NEGATED]
    for number in range(depth - 1):
        call = p.Node("higher_order.cond", (p.Ref(0), p.SubRef(number), p.SubRef(number), p.Items((p.Ref(0),))))
        found.append(p.SubProgram((p.TensorInput(),), (), (call, p.Node("getitem", (p.Ref(1), 0))), (p.Ref(2),)))
    return tuple(found)


def calling(argument: p.Argument) -> p.SubProgram:
    return p.SubProgram((p.TensorInput(),), (), (p.Node("aten.neg.default", (argument,)),), (p.Ref(1),))


@pytest.mark.parametrize("subprograms", [(NEGATED, SUMMED), nested(2), nested(p.MAX_DEPTH)])
def test_sub_programs_survive_the_wire(subprograms: tuple[p.SubProgram, ...]) -> None:
    program = program_of(cond(0, len(subprograms) - 1, p.Ref(1)), *subprograms)
    encoded = p.encode_program(program)
    assert p.decode_program(encoded) == program
    assert p.encode_program(p.decode_program(encoded)) == encoded


@dataclass(frozen=True)
class Malformed:
    program: p.Program
    message: str


NAMES_ITSELF = p.SubProgram((p.TensorInput(),), (), (cond(1, 1, p.Ref(0)),), (p.Ref(1),))
MANY = p.SubProgram((), (), (p.Node("operator.add", (1, 1)),) * (MAX_NODES // 2), ())

MALFORMED = {
    "one that runs itself": Malformed(program_of(cond(0, 1, p.Ref(1)), NEGATED, NAMES_ITSELF), "1 stand before it"),
    "one that runs a later one": Malformed(
        program_of(cond(0, 0, p.Ref(1)), NAMES_ITSELF, NEGATED), "0 stand before it"
    ),
    "one that is not there": Malformed(program_of(cond(0, 7, p.Ref(1)), NEGATED), "1 stand before it"),
    "too deep": Malformed(program_of(cond(0, 0, p.Ref(1)), *nested(p.MAX_DEPTH + 1)), "nested deeper"),
    "too many nodes together": Malformed(program_of(cond(0, 0, p.Ref(1)), MANY, MANY), "more than"),
    "a value of the program around it": Malformed(program_of(cond(0, 0, p.Ref(1)), calling(p.Ref(4))), "only 1 exist"),
    "an operator outside the table": Malformed(
        program_of(cond(0, 0), p.SubProgram((), (), (p.Node("torch.os.system", ("true",)),), ())), "not in the table"
    ),
    "a constant that is not there": Malformed(
        program_of(cond(0, 0), p.SubProgram((), (1,), (), ())), "none of the program's"
    ),
    "one for an operator that runs none": Malformed(
        program_of(p.Node("aten.neg.default", (p.SubRef(0),)), NEGATED), "takes no sub-program"
    ),
    "one in a list": Malformed(
        program_of(p.Node("higher_order.cond", (p.Ref(0), p.Items((p.SubRef(0),)))), NEGATED), "takes no sub-program"
    ),
    "one by keyword": Malformed(
        program_of(p.Node("higher_order.cond", (), (("a", p.SubRef(0)),)), NEGATED), "takes no sub-program"
    ),
    "one as a result": Malformed(
        program_of(cond(0, 0), p.SubProgram((), (), (), (p.SubRef(0),))), "neither a reference nor a plain number"
    ),
}


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_sub_programs_are_refused(case: Malformed) -> None:
    with pytest.raises(ProtocolError, match=case.message):
        p.validate_program(case.program)
    with pytest.raises(ProtocolError, match=case.message):
        p.decode_program(p.encode_program(case.program))
