"""The eager engine: one PyTorch operator after the other, as eager PyTorch would, with as little Python as possible.

A program becomes one generated function with one node a line::

    def run(inputs):
        (v0, v1,) = inputs
        inputs.clear()
        v3 = o0(v0, c0); v0 = None
        v4 = o1(v3, v1, alpha=2); v3 = v1 = None
        return (v4,)

A sub-program becomes such a function too, which the operator that runs it is given. The text is made of this module's
own words, integers, and argument names out of PyTorch's schemas; nothing that came over the network is ever part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from types import FunctionType, TracebackType
from typing import Any

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.engine import Executable, NodeError
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.process_limit import CHECK_EVERY
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, bodies
from dynamo_genie.remote_daemon.operators.table import Operator
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.tensors import TORCH_DTYPES

FIRST_NODE_LINE = 4
PROGRAM_FILE_NAME = "<program>"
_ZEROS = "aten._efficientzerotensor.default"


def compile_program(
    resolved: ResolvedProgram,
    constants: Sequence[torch.Tensor],
    arenas: KVArenas | None = None,
    check: Callable[[], None] | None = None,
) -> Executable:
    """Return a function that runs a program on the device that it is resolved for.

    The function raises `NodeError` when an operator fails.

    Args:
        constants: The program's constants, as tensors on that device.
        arenas: Where its caches grow in place; without, every `cat` copies.
        check: Raises where memory is short; called every `CHECK_EVERY` nodes.

    Raises:
        ProtocolError: Constants are missing.
    """
    program = resolved.program
    if len(constants) != len(program.constants):
        raise ProtocolError(f"program has {len(program.constants)} constants, {len(constants)} were given")
    subs: list[FunctionType] = []
    for body, operators in zip(program.subprograms, resolved.nested, strict=True):
        held = [constants[index] for index in body.constants]
        subs.append(_Source(body, operators, resolved.device, held, subs, check).function())
    run = _Source(program, _growing(resolved, arenas), resolved.device, constants, subs, check).function()
    keys = tuple(node.op for body in bodies(program) for node in body.nodes)
    counts = accumulate((len(body.nodes) for body in bodies(program)), initial=0)
    firsts = {id(function.__code__): first for function, first in zip((run, *subs), counts, strict=False)}

    def run_nodes(inputs: list[Any]) -> tuple[Any, ...]:
        try:
            found: tuple[Any, ...] = run(inputs)
        except Exception as error:
            node = _failed_node(error.__traceback__, firsts)
            if node is None or node >= len(keys):
                raise
            raise NodeError(node, keys[node]) from error
        return found

    execute = _with_memory(run_nodes) if _ZEROS in keys else run_nodes
    return execute if program.default_dtype == "float32" else _with_default_dtype(execute, program.default_dtype)


def _with_memory(execute: Executable) -> Executable:
    """Give results that are zeros without memory (a gradient that nothing reaches) their memory."""

    def run(inputs: list[Any]) -> tuple[Any, ...]:
        return tuple(
            value.clone() if isinstance(value, torch.Tensor) and value._is_zerotensor() else value
            for value in execute(inputs)
        )

    return run


def _with_default_dtype(execute: Executable, name: str) -> Executable:
    """Run under another default dtype: for programs of a client that changed its own."""

    def run(inputs: list[Any]) -> tuple[Any, ...]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(TORCH_DTYPES[name])
        try:
            return execute(inputs)
        finally:
            torch.set_default_dtype(before)

    return run


def _growing(resolved: ResolvedProgram, arenas: KVArenas | None) -> Sequence[Operator]:
    """Return the nodes' operators, with those that grow caches, or view what grew, in place of the usual ones."""
    if arenas is None:
        return resolved.operators
    reshape = torch.ops.aten.reshape.default._op
    growing = list(resolved.operators)
    for number in resolved.arenas.appends:
        growing[number] = replace(growing[number], run=arenas.cat)
    for number in resolved.arenas.reshapes:
        growing[number] = replace(growing[number], run=reshape)
    return growing


def _failed_node(traceback: TracebackType | None, firsts: Mapping[int, int]) -> int | None:
    """Return the number of the node at whose line a generated function failed, the innermost one.

    Args:
        firsts: For the code of each function, by its `id` (code of equal text is equal), the number of its first node.
    """
    found = None
    while traceback is not None:
        first = firsts.get(id(traceback.tb_frame.f_code))
        if first is not None and traceback.tb_lineno >= FIRST_NODE_LINE:
            found = first + traceback.tb_lineno - FIRST_NODE_LINE
        traceback = traceback.tb_next
    return found


class _Source:
    """Writes the generated function and collects the objects that it names.

    Those are `o0...` operators, `c0...` literals, `t0...` constants, `s0...` sub-programs and `check0`.
    """

    def __init__(
        self,
        program: p.Program | p.SubProgram,
        operators: Sequence[Operator],
        device: torch.device,
        constants: Sequence[torch.Tensor],
        subs: Sequence[FunctionType],
        check: Callable[[], None] | None,
    ) -> None:
        self._program = program
        self._operators = operators
        self._names: dict[str, Any] = {}  # keeps the builtins: torch imports modules in the name of its caller
        self._literals: dict[Any, str] = {}
        self._runs: dict[Callable[..., Any], str] = {}
        self._n_inputs = len(program.inputs)
        self._constants = [self._bind("t", number, tensor) for number, tensor in enumerate(constants)]
        self._device = device
        self._subs = subs
        self._check = check

    def function(self) -> FunctionType:
        source = "\n".join(self._lines())
        exec(compile(source, PROGRAM_FILE_NAME, "exec", dont_inherit=True), self._names)  # noqa: S102
        run: FunctionType = self._names["run"]
        return run

    def _lines(self) -> list[str]:
        program = self._program
        dying = _last_uses(program)
        inputs = "".join(f"v{i}, " for i in range(self._n_inputs))
        unpack = f" ({inputs}) = inputs" if inputs else " () = inputs"
        lines = ["def run(inputs):", unpack, " inputs.clear()"]
        first = self._n_inputs + len(program.constants)
        for number, (node, operator) in enumerate(zip(program.nodes, self._operators, strict=True)):
            lines.append(self._call(first + number, node, operator, dying.get(number, ())))
        results = "".join(self._argument(output) + ", " for output in program.outputs)
        return [*lines, f" return ({results})"]

    def _call(self, value: int, node: p.Node, operator: Operator, dying: Sequence[int]) -> str:
        arguments = [self._argument(argument) for argument in node.args]
        arguments += [f"{_schema_name(operator, name)}={self._argument(item)}" for name, item in node.kwargs]
        if operator.needs_device:
            arguments.append(f"device={self._literal('device', self._device)}")
        call = f" v{value} = {self._run(operator)}({', '.join(arguments)})"
        return call + "".join(f"; v{index} = None" for index in dying) + self._checked(value)

    def _checked(self, value: int) -> str:
        """Return what looks for memory once in a while; on the line of a node, which it is then that failed."""
        if self._check is None or value % CHECK_EVERY:
            return ""
        return f"; {self._bind('check', 0, self._check)}()"

    def _argument(self, argument: p.Argument) -> str:
        match argument:
            case p.Ref(index=index):
                position = index - self._n_inputs
                return self._constants[position] if 0 <= position < len(self._constants) else f"v{index}"
            case p.SubRef(index=index):
                return self._bind("s", index, self._subs[index])
            case p.Items(items=items):
                return f"[{', '.join(self._argument(item) for item in items)}]"
            case None | True | False:
                return repr(argument)
            case int():
                return f"({int(argument)})"
            case float():  # by its digits: 0.0 == -0.0, and a NaN equals nothing
                return self._literal(("float", argument.hex()), argument)
            case str():
                return self._literal(("str", argument), argument)
            case p.ComplexNumber(real=real, imag=imag):
                return self._literal(("complex", real.hex(), imag.hex()), complex(real, imag))
            case p.DtypeName() | p.LayoutName() | p.MemoryFormatName():
                return self._literal(argument, getattr(torch, argument.name))

    def _run(self, operator: Operator) -> str:
        name = self._runs.get(operator.run)
        if name is None:
            name = self._runs[operator.run] = self._bind("o", len(self._runs), operator.run)
        return name

    def _literal(self, key: Any, value: Any) -> str:
        if key not in self._literals:
            self._literals[key] = self._bind("c", len(self._literals), value)
        return self._literals[key]

    def _bind(self, prefix: str, number: int, value: Any) -> str:
        name = f"{prefix}{number}"
        self._names[name] = value
        return name


def _schema_name(operator: Operator, given: str) -> str:
    """Return the schema's own spelling of an argument name; the program was checked, so there is one."""
    assert operator.schema is not None
    return next(formal.name for formal in operator.schema.arguments if formal.name == given)


def _last_uses(program: p.Program | p.SubProgram) -> dict[int, list[int]]:
    """Return, for each node, the values that nothing needs after it (its own result, if nothing ever does)."""
    first = len(program.inputs) + len(program.constants)
    last: dict[int, int] = {first + number: number for number in range(len(program.nodes))}
    for number, node in enumerate(program.nodes):
        for argument in (*node.args, *(item for _, item in node.kwargs)):
            last.update((index, number) for index in p.references(argument))
    for output in program.outputs:
        for index in p.references(output):
            last.pop(index, None)
    dying: dict[int, list[int]] = {}
    for index, number in last.items():
        if not len(program.inputs) <= index < first:  # constants stay
            dying.setdefault(number, []).append(index)
    return dying
