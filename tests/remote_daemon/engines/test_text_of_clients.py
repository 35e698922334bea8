"""Text that a client chose is in nothing that is compiled: no graph for a compiler, no text of the eager engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines import eager
from dynamo_genie.remote_daemon.engines.program_graph import program_graph
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, resolve_program
from dynamo_genie.remote_daemon.operators.table import resolve_operator
from dynamo_genie.remote_daemon.operators.words import WORDS, with_own_text
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import OPERATORS

CPU = torch.device("cpu")
MARK = "zqx"
HOSTILE = tuple(
    text.replace("MARK", MARK)
    for text in (
        'MARK"); system("id"); throw std::runtime_error("',
        "MARK'); __import__('os').system('id'); ('",
        'MARK"""\nimport os\n"""',
        "MARK\\",
        "MARK\\\\n\\x22\\u0022\\N{QUOTATION MARK}",
        "MARK\n#include <cstdlib>\n",
        "MARK\r\n// */ /*",
        "{MARK!r} {0.__class__} ${MARK} %(MARK)s %s %n",
        'R"MARK(x)MARK"',
        "??/MARK??'",
        "MARK\u2028\u2029\x85\x0b\x0c",
        "MARK\x00\x1b[0m",
        "\u202eMARK\ufeff",
        "MARK" * 85,  # as long as a text may be
        "tanh MARK",
    )
)

MESSAGES = {"assert_msg", "api_name"}
KNOWN = {
    "approximate": ("none", "tanh"),
    "rounding_mode": ("trunc", "floor"),
    "side": ("left", "right"),
    "UPLO": ("L", "U"),
    "mode": ("reduced", "complete", "r"),
    "driver": ("gesvd", "gesvdj", "gesvda", "gels", "gelsy", "gelsd", "gelss"),
    "reduce": ("sum", "prod", "mean", "amax", "amin", "max", "min", "add", "multiply"),
}
"""What may be chosen by each argument that is no message."""


def calls_with_text() -> Iterator[tuple[str, str]]:
    """Every argument of every operator of the table that takes a text."""
    for key in sorted(OPERATORS):
        schema = resolve_operator(key, CPU).schema
        for argument in schema.arguments if schema is not None else ():
            if "str" in str(argument.real_type):
                yield key, argument.name


CALLS = tuple(calls_with_text())


def filler(formal: Any, tensor: p.Argument) -> p.Argument:
    """An argument of the right type."""
    if isinstance(formal, torch.OptionalType):
        return None
    if isinstance(formal, torch.ListType):
        return p.Items((filler(formal.getElementType(), tensor),))
    fillers: dict[str, p.Argument] = {
        "Tensor": tensor,
        "bool": True,
        "str": "none",
        "ScalarType": p.DtypeName("float32"),
    }
    return fillers.get(str(formal), 1)


def program_with(key: str, name: str, text: p.Argument) -> p.Program:
    """A program of one call, whose argument `name` is `text`."""
    schema = resolve_operator(key, CPU).schema
    assert schema is not None
    args, kwargs = [], []
    for formal in schema.arguments:
        if formal.name in ("device", "pin_memory"):
            continue
        value = text if formal.name == name else filler(formal.real_type, p.Ref(0))
        if formal.kwarg_only:
            kwargs.append((formal.name, value))
        else:
            args.append(value)
    node = p.Node(key, tuple(args), tuple(sorted(kwargs)))
    nothing = p.Node("operator.add", (1, 1))  # so that the number of the call is not the first one
    return p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (nothing, node), (p.Ref(0),))


def everything_in(graph: GraphModule) -> str:
    """All text of a graph: of its nodes, and of the code made of them."""
    nodes = [f"{n.name} {n.target} {n.args!r} {n.kwargs!r} {n.meta!r}" for n in graph.graph.nodes]
    return "\n".join([graph.code, *nodes])


def eager_text(resolved: ResolvedProgram) -> str:
    return "\n".join(eager._Source(resolved.program, resolved.operators, CPU, (), (), None)._lines())


def test_the_table_has_texts_of_both_kinds() -> None:
    names = {name for _, name in CALLS}
    assert names == MESSAGES | KNOWN.keys()


@pytest.mark.parametrize(("key", "name"), CALLS)
def test_no_text_of_a_client_is_in_what_is_compiled(key: str, name: str) -> None:
    for text in HOSTILE:
        program = program_with(key, name, text)
        p.validate_program(program)
        resolved = resolve_program(program, CPU)
        graph = everything_in(program_graph(resolved, [None]))
        assert MARK not in graph
        assert "genie_text_of_node_1" in graph
        assert MARK not in eager_text(resolved)


@pytest.mark.parametrize(("key", "name"), CALLS)
def test_the_words_that_choose_something_go_in(key: str, name: str) -> None:
    for word in KNOWN.get(name, ()):
        assert word in WORDS
        assert repr(word) in program_graph(resolve_program(program_with(key, name, word), CPU), [None]).code


def test_text_is_refused_wherever_an_operator_takes_none() -> None:
    """Numbers, dtypes, devices, lists: nothing but an argument that is a text in its schema can bring text in."""
    tried = 0
    for key in sorted(OPERATORS):
        schema = resolve_operator(key, CPU).schema
        for formal in schema.arguments if schema is not None else ():
            if "str" in str(formal.real_type):
                continue
            for text in (HOSTILE[0], p.Items((HOSTILE[0],)), p.Items((p.Items((HOSTILE[0],)),))):
                program = program_with(key, formal.name, text)
                if formal.name in ("device", "pin_memory"):
                    kwargs = (*program.nodes[1].kwargs, (formal.name, text))
                    node = p.Node(key, program.nodes[1].args, tuple(sorted(kwargs)))
                    program = p.Program(p.PROGRAM_VERSION, program.inputs, (), (program.nodes[0], node), ())
                with pytest.raises(ProtocolError):
                    resolve_program(program, CPU)
                tried += 1
    assert tried > 5_000


def test_text_is_refused_by_functions_branches_and_as_a_result() -> None:
    for key in sorted(OPERATORS):
        if resolve_operator(key, CPU).schema is None:
            for text in (HOSTILE[0], p.Items((HOSTILE[0],))):
                program = p.Program(p.PROGRAM_VERSION, (), (), (p.Node(key, (text, 1)),), ())
                with pytest.raises(ProtocolError):
                    resolve_program(program, CPU)
    with pytest.raises(ProtocolError, match="neither a reference nor a plain number"):
        p.validate_program(p.Program(p.PROGRAM_VERSION, (), (), (), (HOSTILE[0],)))


def test_names_of_arguments_are_those_of_the_schema() -> None:
    node = p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(0)), (("alpha=1); evil(", 2),))
    with pytest.raises(ProtocolError, match="unexpected keyword"):
        resolve_program(p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (node,), ()), CPU)


@pytest.mark.parametrize("number", [complex("inf"), complex(0, float("nan"))])
def test_a_number_without_a_literal_is_left_to_eager(number: complex) -> None:
    literal = p.ComplexNumber(number.real, number.imag)
    node = p.Node("aten.mul.Scalar", (p.Ref(0), literal))
    resolved = resolve_program(p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (node,), (p.Ref(1),)), CPU)
    with pytest.raises(ValueError, match="no literal"):
        program_graph(resolved, [None])


def test_compiled_code_that_fails_is_given_the_clients_own_text() -> None:
    program = program_with("aten._assert_async.msg", "assert_msg", HOSTILE[0])
    assert with_own_text(program, "genie_text_of_node_1") == (1, HOSTILE[0])
    assert with_own_text(program, "before genie_text_of_node_1 after") == (1, f"before {HOSTILE[0]} after")
    for other in ("genie_text_of_node_0", "genie_text_of_node_77", "another error", "genie_text_of_node_"):
        assert with_own_text(program, other) is None
