"""Lowering of an FX graph to a Program: names for operators, numbers for values, nothing that belongs to one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.lowering.arguments import dtype_name, lower_constant
from dynamo_genie.lowering.body import BodyLowering, SubPrograms
from dynamo_genie.lowering.value_facts import lower_facts
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.torch_internals.fake import unset_fake_temporarily


@dataclass(frozen=True)
class LoweredProgram:
    """A Program, its canonical bytes and digest, and what only the client knows about it.

    Attributes:
        node_lines: For each node of the program, then of its sub-programs in order, the user's source line that caused
            it.
        lifted_constants: Constants of the graph that are too large for the program; they are passed as extra
            inputs, after the graph's own placeholders.
        scalar_outputs: Positions in `program.outputs` that hold a plain number instead of a tensor.
    """

    program: p.Program
    encoded: bytes
    digest: bytes
    node_lines: tuple[str | None, ...]
    lifted_constants: tuple[torch.Tensor, ...] = ()
    scalar_outputs: tuple[int, ...] = ()


def lower(gm: GraphModule, *, facts: bool = True) -> LoweredProgram:
    """Return the Program that computes what `gm` computes; raise `UnsupportedOperator` where none can.

    Without `facts`, the program does not say what its values are.
    """
    with unset_fake_temporarily():  # the constants of a graph are real tensors, also while it is being captured
        return _program(gm, facts)


def finish(program: p.Program, lines: tuple[str | None, ...], **extra: Any) -> LoweredProgram:
    """Validate, encode and name a program."""
    p.validate_program(program)
    encoded = p.encode_program(program)
    return LoweredProgram(program, encoded, p.program_digest(encoded), lines, **extra)


def _program(gm: GraphModule, facts: bool) -> LoweredProgram:
    subs = SubPrograms()
    lowering = BodyLowering(gm, subs)
    lifted, small = _number_constants(lowering)
    constants = (*small, *subs.constants)
    nodes, lines = lowering.calls(len(lowering.inputs) + len(constants))
    outputs, scalars = lowering.outputs()
    program = p.Program(
        version=p.PROGRAM_VERSION,
        inputs=tuple(lowering.inputs),
        constants=tuple(lower_constant(tensor) for tensor in constants),
        nodes=nodes,
        outputs=outputs,
        mutated_inputs=tuple(sorted(lowering.mutated)),
        random=lowering.random,
        default_dtype=dtype_name(torch.get_default_dtype()),
        **(lower_facts(lowering.index) if facts else {}),
        subprograms=tuple(subs.bodies),
    )
    return finish(program, (*lines, *subs.lines), lifted_constants=lifted, scalar_outputs=scalars)


def _number_constants(lowering: BodyLowering) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
    """Number the tensors that the graph holds: large ones as further inputs, then small ones as constants."""
    large = [(node, tensor) for node, tensor in lowering.held if tensor.nbytes > MAX_INLINE_NBYTES // 16]
    for node, tensor in large:
        lowering.inputs.append(p.TensorInput(dtype_name(tensor.dtype), tensor.dim()))
        lowering.number(node, len(lowering.inputs) - 1)
    small = [(node, tensor) for node, tensor in lowering.held if node not in lowering.index]
    for number, (node, _) in enumerate(small):
        lowering.number(node, len(lowering.inputs) + number)
    return tuple(tensor for _, tensor in large), [tensor for _, tensor in small]
