"""A Program: the portable, typed form of an ATen graph that a daemon can run. No torch, and no device in it.

Values are numbered: inputs first, then constants, then one value per node, in order; `Ref(i)` names value i.
A node with several results is one value, a tuple; "getitem" nodes take it apart. Branches and loops run sub-programs,
whose values are numbered in the same way, each for itself.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import msgspec

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire.arguments import (
    Argument,
    ComplexNumber,
    DtypeName,
    Index,
    Int64,
    Items,
    LayoutName,
    MemoryFormatName,
    ProgramRecord,
    Ref,
    SubRef,
    Word,
    references,
)
from dynamo_genie.runtime.wire.limits import MAX_ITEMS, MAX_NODES, MAX_RANK
from dynamo_genie.runtime.wire.operators import HIGHER_ORDER, OPERATORS
from dynamo_genie.runtime.wire.tensor import Dtype, InlineTensor

__all__ = [
    "Argument", "ComplexNumber", "DtypeName", "Items", "LayoutName", "MemoryFormatName", "Node", "Program", "Ref",
    "ScalarInput", "ScalarKind", "SubProgram", "SubRef", "TensorInput", "ValueFacts", "decode_program",
    "encode_program", "program_digest", "references", "role_of", "validate_program",
]  # fmt: skip

PROGRAM_VERSION = 3
MAX_ARGUMENTS = 64
MAX_NESTING = 4
MAX_SUBPROGRAMS = 1024
MAX_DEPTH = 16
"""Sub-programs of sub-programs."""
MAX_VALUES = MAX_NODES + 2 * MAX_ITEMS

ScalarKind: TypeAlias = Literal["int", "float", "bool"]


# --- the program -----------------------------------------------------------------------------------------


class TensorInput(ProgramRecord, frozen=True, tag="T"):
    """A tensor comes in here; None leaves its dtype or rank open (programs made from one eager operator)."""

    dtype: Dtype | None = None
    rank: Annotated[int, msgspec.Meta(ge=0, le=MAX_RANK)] | None = None


class ScalarInput(ProgramRecord, frozen=True, tag="S"):
    """A plain number comes in here: a symbolic size of a graph, or a number given to one eager operator."""

    kind: ScalarKind


class Node(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One operator call; `kwargs` are sorted by name."""

    op: Word
    args: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=MAX_ARGUMENTS)]
    kwargs: Annotated[tuple[tuple[Word, Argument], ...], msgspec.Meta(max_length=MAX_ARGUMENTS)] = ()


class ValueFacts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the client's passes know of a value: words of their vocabulary, "" or -1 where nothing is known.

    A hint for layout and scheduling. A wrong one costs time and never changes a value.
    """

    role: Word = ""
    phase: Word = ""
    residency: Word = ""
    group: Word = ""
    priority: Int64 = 0
    nbytes: Int64 = -1
    flops: Int64 = -1
    dtype: Word = ""
    confidence: float = 0.0


class SubProgram(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a branch or the body of a loop computes: sees its inputs and nothing around it.

    `constants` are numbers of the Program's own constants. It may name sub-programs that stand before it.
    """

    inputs: Annotated[tuple[TensorInput | ScalarInput, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    constants: Annotated[tuple[Index, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    nodes: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_NODES)]
    outputs: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class Program(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What to compute. `outputs` holds references and literals; `mutated_inputs` are written in place.

    `random` says that running it draws random numbers. `default_dtype` is the client's when the program was made:
    operators that mix integers with Python floats, or make tensors, follow it. `facts` holds the distinct facts
    about values and `fact_of` says, for each value, which of them is its own; both are empty where nothing is known.
    Of the values of sub-programs nothing is known.
    """

    version: int
    inputs: Annotated[tuple[TensorInput | ScalarInput, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    constants: Annotated[tuple[InlineTensor, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    nodes: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_NODES)]
    outputs: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    mutated_inputs: Annotated[tuple[Index, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()
    random: bool = False
    default_dtype: Dtype = "float32"
    facts: Annotated[tuple[ValueFacts, ...], msgspec.Meta(max_length=MAX_VALUES)] = ()
    fact_of: Annotated[tuple[Index, ...], msgspec.Meta(max_length=MAX_VALUES)] = ()
    subprograms: Annotated[tuple[SubProgram, ...], msgspec.Meta(max_length=MAX_SUBPROGRAMS)] = ()


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Program)


def role_of(program: Program, value: int) -> str:
    """Return what the facts say a value is; empty where nothing is said."""
    return program.facts[program.fact_of[value]].role if program.fact_of else ""


def encode_program(program: Program) -> bytes:
    """Return the canonical bytes of a program: equal programs have equal bytes."""
    return _ENCODER.encode(program)


def program_digest(encoded: bytes) -> bytes:
    """Return the identity of a program: the sha256 of its canonical bytes."""
    return hashlib.sha256(encoded).digest()


def decode_program(encoded: bytes) -> Program:
    """Return the program that these bytes describe, checked, or raise `ProtocolError`."""
    try:
        program = _DECODER.decode(encoded)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"malformed program: {error}") from None
    validate_program(program)
    return program


# --- validation ------------------------------------------------------------------------------------------


def validate_program(program: Program) -> None:
    """Raise `ProtocolError` unless references point backwards, operators are known and sizes are bounded."""
    if program.version != PROGRAM_VERSION:
        raise ProtocolError(f"program has version {program.version}; this release reads {PROGRAM_VERSION}")
    _check_subprograms(program)
    known = _check_body(program, "", len(program.subprograms))
    _check_mutated(program)
    if program.fact_of and len(program.fact_of) != known:
        raise ProtocolError(f"facts are given for {len(program.fact_of)} of the program's {known} values")
    if any(index >= len(program.facts) for index in program.fact_of):
        raise ProtocolError("a value of the program names facts that are not there")


def _check_subprograms(program: Program) -> None:
    """Check sub-programs: each names those before it only, so that none can run itself, and not in too many steps."""
    if len(program.nodes) + sum(len(body.nodes) for body in program.subprograms) > MAX_NODES:
        raise ProtocolError(f"the program and its sub-programs have more than {MAX_NODES} nodes")
    depths: list[int] = []
    for number, body in enumerate(program.subprograms):
        where = f"sub-program {number}, "
        if any(index >= len(program.constants) for index in body.constants):
            raise ProtocolError(f"{where}a constant is none of the program's")
        _check_body(body, where, number)
        named = (argument.index for node in body.nodes for argument in node.args if isinstance(argument, SubRef))
        depths.append(1 + max((depths[index] for index in named), default=0))
        if depths[-1] > MAX_DEPTH:
            raise ProtocolError(f"{where}sub-programs are nested deeper than {MAX_DEPTH}")


def _check_body(body: Program | SubProgram, where: str, subprograms: int) -> int:
    """Check nodes and outputs, which may name the first `subprograms`; return how many values there are."""
    first = len(body.inputs) + len(body.constants)
    for number, node in enumerate(body.nodes):
        _check_node(node, f"{where}node {number} ({node.op})", first + number, subprograms)
    known = first + len(body.nodes)
    for number, output in enumerate(body.outputs):
        if isinstance(output, (str, Items, SubRef, DtypeName, LayoutName, MemoryFormatName, ComplexNumber)):
            raise ProtocolError(f"{where}output {number} of the program is neither a reference nor a plain number")
        _check_argument(output, f"{where}output {number}", known, depth=0)
    return known


def _check_node(node: Node, where: str, known: int, subprograms: int) -> None:
    if node.op not in OPERATORS:
        raise ProtocolError(f"{where}: the operator is not in the table of operators")
    for argument in node.args:
        if isinstance(argument, SubRef) and node.op in HIGHER_ORDER:
            if argument.index >= subprograms:
                raise ProtocolError(
                    f"{where}: names sub-program {argument.index}, but only {subprograms} stand before it"
                )
        else:
            _check_argument(argument, where, known, depth=0)
    names = [name for name, _ in node.kwargs]
    if any(a >= b for a, b in pairwise(names)):
        raise ProtocolError(f"{where}: keyword arguments are not sorted, or one is given twice")
    for _, argument in node.kwargs:
        _check_argument(argument, where, known, depth=0)


def _check_argument(argument: Argument, where: str, known: int, depth: int) -> None:
    if isinstance(argument, SubRef):
        raise ProtocolError(f"{where}: takes no sub-program there")
    if isinstance(argument, Ref):
        if argument.index >= known:
            raise ProtocolError(f"{where}: refers to value {argument.index}, but only {known} exist there")
    elif isinstance(argument, Items):
        if depth == MAX_NESTING:
            raise ProtocolError(f"{where}: lists are nested deeper than {MAX_NESTING}")
        for item in argument.items:
            _check_argument(item, where, known, depth + 1)


def _check_mutated(program: Program) -> None:
    mutated = program.mutated_inputs
    if any(a >= b for a, b in pairwise(mutated)):
        raise ProtocolError("mutated inputs are not sorted, or one is listed twice")
    for index in mutated:
        if index >= len(program.inputs) or not isinstance(program.inputs[index], TensorInput):
            raise ProtocolError(f"mutated input {index} is not a tensor input of the program")
