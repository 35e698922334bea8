"""The check of a Program: does every node fit its operator's schema? Asked once, when a worker loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.operators.control_flow import CONTROL_FLOW
from dynamo_genie.remote_daemon.operators.table import Operator
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.torch_internals.operators import FunctionSchema, JitType


class ValueKind(Enum):
    """What is known, before anything runs, of a value of a program."""

    TENSOR = "a tensor"
    NUMBER = "a number"
    SEVERAL = "several results"
    ANY = "a result taken from several"


# Schema types, by name, and the literals each takes. Enumerations (dtype, layout, ...) are "int" to the schema.
_LITERALS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "int": (int,),
        "SymInt": (int,),
        "float": (int, float),
        "bool": (bool,),
        "SymBool": (bool,),
        "number": (bool, int, float, p.ComplexNumber),
        "Scalar": (bool, int, float, p.ComplexNumber),
        "str": (str,),
        "ScalarType": (p.DtypeName,),
        "Layout": (p.LayoutName,),
        "MemoryFormat": (p.MemoryFormatName,),
        "Device": (),
        "Generator": (),
        "Tensor": (bool, int, float, p.ComplexNumber),  # PyTorch makes a tensor of a number where it wants one
    }
)
_NUMERIC = frozenset({"int", "SymInt", "float", "bool", "SymBool", "number", "Scalar"})
_REFUSED_KEYWORDS = frozenset({"device", "pin_memory"})


def check_program(program: p.Program, operators: Sequence[Sequence[Operator]]) -> None:
    """Raise `ProtocolError` at the first node whose arguments do not fit its operator.

    Args:
        operators: Those of the program's nodes, then those of each sub-program's.
    """
    bodies: tuple[p.Program | p.SubProgram, ...] = (program, *program.subprograms)
    for body, own in zip(bodies, operators, strict=True):
        kinds = [_input_kind(item) for item in body.inputs] + [ValueKind.TENSOR] * len(body.constants)
        for number, (node, operator) in enumerate(zip(body.nodes, own, strict=True)):
            where = f"node {number} ({node.op})"
            if operator.key in CONTROL_FLOW:
                _check_control_flow(node, where, kinds, program.subprograms)
                kinds.append(ValueKind.SEVERAL)
            elif operator.schema is None:
                kinds.append(_check_function(node, where, kinds))
            else:
                _check_arguments(node, operator.schema, where, kinds)
                kinds.append(_result_kind(operator.schema))


def _input_kind(item: p.TensorInput | p.ScalarInput) -> ValueKind:
    return ValueKind.TENSOR if isinstance(item, p.TensorInput) else ValueKind.NUMBER


def _result_kind(schema: FunctionSchema) -> ValueKind:
    if len(schema.returns) != 1 or isinstance(schema.returns[0].type, torch.ListType):
        return ValueKind.SEVERAL
    return ValueKind.TENSOR if isinstance(schema.returns[0].type, torch.TensorType) else ValueKind.NUMBER


def _check_function(node: p.Node, where: str, kinds: Sequence[ValueKind]) -> ValueKind:
    """Check a function on plain numbers, or "getitem", whose only keyword arguments are none."""
    if node.kwargs:
        raise ProtocolError(f"{where}: takes no keyword arguments")
    if node.op == "getitem":
        match node.args:
            case (p.Ref(index=index), int()) if kinds[index] in (ValueKind.SEVERAL, ValueKind.ANY):
                return ValueKind.ANY
        raise ProtocolError(f"{where}: takes a value of several results and a position")
    flat: list[p.Argument] = []
    for argument in node.args:
        flat += argument.items if isinstance(argument, p.Items) else (argument,)
    for argument in flat:
        is_number = isinstance(argument, (bool, int, float))
        if not is_number and not (isinstance(argument, p.Ref) and kinds[argument.index] is ValueKind.NUMBER):
            raise ProtocolError(f"{where}: works on plain numbers, not on {_describe(argument, kinds)}")
    return ValueKind.NUMBER


def _check_control_flow(
    node: p.Node, where: str, kinds: Sequence[ValueKind], subprograms: Sequence[p.SubProgram]
) -> None:
    """Check a branch or a loop: what comes where, and that sub-programs take and return what the operator needs."""
    form = CONTROL_FLOW[node.op]
    wanted = ((bool, p.Ref),) * form.chosen + (p.SubRef,) * form.bodies + (p.Items,) * form.lists
    if node.kwargs or len(node.args) != len(wanted) or not all(map(isinstance, node.args, wanted)):
        truth = "a truth value, " if form.chosen else ""
        raise ProtocolError(f"{where}: takes {truth}{form.bodies} sub-programs and {form.lists} lists, in this order")
    bodies = [subprograms[argument.index] for argument in node.args if isinstance(argument, p.SubRef)]
    lists = [argument.items for argument in node.args if isinstance(argument, p.Items)]
    given = [item for items in lists for item in items]
    for body in bodies:
        if len(body.inputs) != len(given):
            raise ProtocolError(f"{where}: a sub-program takes {len(body.inputs)} values, and gets {len(given)}")
        for item, formal in zip(given, body.inputs, strict=True):
            if not _fits(item, "Tensor" if isinstance(formal, p.TensorInput) else "number", kinds):
                raise ProtocolError(
                    f"{where}: a sub-program wants {_input_kind(formal).value}, not {_describe(item, kinds)}"
                )
    problem = form.problem([len(body.outputs) for body in bodies], [len(items) for items in lists])
    if problem:
        raise ProtocolError(f"{where}: {problem}")


def _check_arguments(node: p.Node, schema: FunctionSchema, where: str, kinds: Sequence[ValueKind]) -> None:
    formals = schema.arguments
    n_positional = sum(not formal.kwarg_only for formal in formals)
    if len(node.args) > n_positional:
        raise ProtocolError(f"{where}: takes {n_positional} positional arguments, not {len(node.args)}")
    given = dict(zip((formal.name for formal in formals), node.args, strict=False))
    for name, argument in node.kwargs:
        if name in given or name in _REFUSED_KEYWORDS or all(name != formal.name for formal in formals):
            raise ProtocolError(f"{where}: unexpected keyword argument {name!r}")
        given[name] = argument
    for formal in formals:
        if formal.name in given:
            _check_type(given[formal.name], formal.real_type, f"{where}, argument {formal.name!r}", kinds)
        elif not formal.has_default_value() and formal.name not in _REFUSED_KEYWORDS:
            raise ProtocolError(f"{where}: argument {formal.name!r} is missing")


def _check_type(argument: p.Argument, formal: JitType, where: str, kinds: Sequence[ValueKind]) -> None:
    if isinstance(formal, torch.OptionalType):
        if argument is not None:
            _check_type(argument, formal.getElementType(), where, kinds)
        return
    if isinstance(formal, torch.ListType):
        element = formal.getElementType()
        if isinstance(argument, p.Items):
            for item in argument.items:
                _check_type(item, element, where, kinds)
            return
        is_value = isinstance(argument, p.Ref) and kinds[argument.index] in (ValueKind.SEVERAL, ValueKind.ANY)
        if not is_value:  # a lone number stands for a list of it (`int[1]`)
            _check_type(argument, element, where, kinds)
        return
    if not _fits(argument, str(formal), kinds):
        raise ProtocolError(f"{where}: wants {formal}, not {_describe(argument, kinds)}")


def _fits(argument: p.Argument, formal: str, kinds: Sequence[ValueKind]) -> bool:
    if isinstance(argument, p.Ref):
        kind = kinds[argument.index]
        if kind is ValueKind.ANY:
            return True
        if formal == "Tensor":
            return kind in (ValueKind.TENSOR, ValueKind.NUMBER)
        return kind is ValueKind.NUMBER and formal in _NUMERIC
    allowed = _LITERALS.get(formal, ())
    return isinstance(argument, allowed) if argument is not None else formal in ("Device", "Generator")


def _describe(argument: p.Argument, kinds: Sequence[ValueKind]) -> str:
    return kinds[argument.index].value if isinstance(argument, p.Ref) else repr(argument)
