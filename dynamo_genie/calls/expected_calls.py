"""Describes a call before it is made, from the sizes of its arguments, for `explain.prediction` to count its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.inputs import handle_of, is_expanded, written_kind
from dynamo_genie.explain.contents import content_of
from dynamo_genie.explain.expected_call import (
    ExpectedCall,
    ExpectedInput,
    LocalTensor,
    ReadBack,
    RemoteTensorInput,
    SessionNumbers,
)
from dynamo_genie.lowering.output_shapes import OutputMetadata
from dynamo_genie.tensors import wire_dtype


class Expectation:
    """What the calls of one program have in common."""

    def __init__(self, gm: GraphModule, kinds: Sequence[str], *, trains: bool) -> None:
        """Look at a graph.

        Args:
            gm: The graph that became the program.
            kinds: The tensor class of each of its inputs.
            trains: Whether it saves some of its results for a backward.
        """
        placeholders = gm.graph.find_nodes(op="placeholder")
        self._kinds = kinds
        self._trains = trains
        self._called: BoundProgram | None = None
        self._contents = [content_of(node) for node in placeholders]
        returned: Any = gm.graph.output_node().args[0]
        values = [node.meta.get("val") if isinstance(node, Node) else node for node in returned]
        self._ranks = tuple(value.dim() for value in values if isinstance(value, torch.Tensor))

    def call(
        self,
        bound: BoundProgram,
        args: Sequence[Any],
        *,
        n_outputs: int,
        n_dropped: int,
        fetched: Sequence[tuple[OutputMetadata, str]],
        describes: bool,
    ) -> ExpectedCall:
        """Describe a call with these arguments; looks at their sizes, not at their values.

        Args:
            bound: The program on its session.
            args: The program's inputs; a `RemoteTensorInput` stands for what will be in the daemon.
            n_outputs: How many results get a handle.
            n_dropped: How many get none.
            fetched: The results that are fetched before the call returns, with their tensor classes.
            describes: Whether the shapes of the results must be asked for.
        """
        return ExpectedCall(
            program=bound.program,
            binding=bound.number,
            numbers=SessionNumbers(*bound.session.counted, bound.session.links.transfers),
            inputs=tuple(self._input(bound, position, args[position]) for position in bound.free),
            n_outputs=n_outputs,
            n_dropped=n_dropped,
            reads=(*self._written(bound, args), *(_fetched(output, kind) for output, kind in fetched)),
            draws=bound.lowered.program.random,
            changed=self._changed(bound, args),
            describes=self._ranks if describes else (),
        )

    def _changed(self, bound: BoundProgram, args: Sequence[Any]) -> tuple[int, ...]:
        """Assume that a step of training ends with an optimizer, here, that changes what gets a gradient."""
        if not (self._trains and bound is self._called):
            self._called = bound
            return ()
        return tuple(args[i].nbytes for i in bound.resident if args[i].requires_grad)

    def _written(self, bound: BoundProgram, args: Sequence[Any]) -> list[ReadBack]:
        """List what the program writes into local tensors, in the order in which it is fetched."""
        free = [i for i in bound.lowered.program.mutated_inputs if i in bound.free]
        local = [i for i in free if isinstance(args[i], torch.Tensor) and handle_of(args[i]) is None]
        back = [_read(args[i], written_kind(self._kinds[i])) for i in local]
        return [_read(args[i], "weight") for i in bound.written] + back

    def _input(self, bound: BoundProgram, position: int, value: Any) -> ExpectedInput:
        if isinstance(value, RemoteTensorInput):
            return value
        if not isinstance(value, torch.Tensor):
            return 0 if value is None else value
        handle = handle_of(value)
        if handle is not None:
            return RemoteTensorInput(handle.id)
        shape = tuple(value.shape)
        if is_expanded(value):
            shape = tuple(1 if step == 0 else size for size, step in zip(shape, value.stride(), strict=True))
        written = position in bound.lowered.program.mutated_inputs
        return LocalTensor(wire_dtype(value.dtype), shape, self._kinds[position], written, *self._contents[position])


def _read(value: torch.Tensor, kind: str) -> ReadBack:
    return ReadBack(wire_dtype(value.dtype), tuple(value.shape), kind)


def _fetched(output: OutputMetadata, kind: str) -> ReadBack:
    assert output.dtype is not None
    assert output.shape is not None
    return ReadBack(wire_dtype(output.dtype), output.shape, kind)
