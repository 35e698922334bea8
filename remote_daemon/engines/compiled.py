"""An engine for compilers that take their time: calls run eager until what they need is compiled.

Compilers specialise, so there is a compiled form for each signature: the layouts of the tensors and the values of the
numbers. One thread compiles them one after the other, for tensors without data, and never holds a call up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.fx import GraphModule

from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.engine import Executable, NodeError, Unfit
from dynamo_genie.remote_daemon.engines.program_graph import program_graph
from dynamo_genie.remote_daemon.engines.signature import Signature, layout_of, signature_of, stands_for_others
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.operators.words import with_own_text

MAX_FORMS = 8
"""Compiled forms of one program; calls of other signatures run eager."""

Compile: TypeAlias = Callable[[GraphModule, Sequence[torch.Tensor]], Callable[..., Any]]
"""Compiles a graph for inputs like the given ones, which hold no data; returns a function of the inputs."""


class CompiledInBackground:
    """An engine: the compiled forms of one program."""

    def __init__(
        self,
        resolved: ResolvedProgram,
        constants: Sequence[torch.Tensor],
        eager: Executable,
        compile_graph: Compile,
        background: Background,
    ) -> None:
        self._resolved = resolved
        self._constants = tuple(constants)
        self._eager = eager
        self._compile_graph = compile_graph
        self._background = background
        self._forms: dict[Signature, Future[Callable[..., Any]]] = {}

    def __call__(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Run the program; empties `inputs`.

        Raises:
            Unfit: It could not be compiled.
            NodeError: An assertion of the program does not hold.
        """
        if any(isinstance(value, torch.Tensor) and stands_for_others(value) for value in inputs):
            return self._eager(inputs)  # compiled code would read what the memory holds
        signature = signature_of(inputs, range(len(inputs)))
        form = self._forms.get(signature)
        if form is None and len(self._forms) < MAX_FORMS:
            form = self._forms[signature] = self._background.submit(partial(self._compile, _without_data(inputs)))
        if form is None or not form.done():
            return self._eager(inputs)
        error = form.exception()
        if error is not None:
            message = str(error).splitlines() or [""]
            raise Unfit(f"it could not be compiled: {type(error).__name__}: {message[0]}") from error
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        inputs.clear()
        try:
            return tuple(form.result()(*tensors, *self._constants))
        except Exception as error:
            found = with_own_text(self._resolved.program, str(error))
            if found is None:
                raise
            node, words = found
            raise NodeError(node, self._resolved.program.nodes[node].op) from RuntimeError(words)

    def wait(self, timeout_s: float) -> None:
        """Wait until what was asked for is compiled.

        Raises:
            TimeoutError: It takes longer than `timeout_s`.
        """
        for form in list(self._forms.values()):
            form.exception(timeout_s)

    def _compile(self, inputs: Sequence[Any]) -> Callable[..., Any]:
        graph = program_graph(self._resolved, [None if isinstance(value, tuple) else value for value in inputs])
        layouts = [*(value for value in inputs if isinstance(value, tuple)), *map(layout_of, self._constants)]
        device = self._resolved.device
        with _current(device):
            from dynamo_genie.torch_internals.fake import FakeTensorMode  # loads TorchDynamo, a third of a start

            with FakeTensorMode():
                fakes = [torch.empty_strided(*place, dtype=dtype, device=device) for *place, dtype in layouts]
            return self._compile_graph(graph, fakes)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make a card the current one of the compile thread, whose own is the first: compilers try kernels out there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _without_data(inputs: Sequence[Any]) -> list[Any]:
    """Return layouts in place of tensors; no number is a tuple, so they can be told apart."""
    return [layout_of(value) if isinstance(value, torch.Tensor) else value for value in inputs]
