"""The engines of one device: from a resolved Program and what was asked for to something that runs it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.engines import CUDAGRAPHS, ENGINES, INDUCTOR, TENSORRT
from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.choice import choose
from dynamo_genie.remote_daemon.engines.compiled import Compile, CompiledInBackground
from dynamo_genie.remote_daemon.engines.cuda_recorder import CudaRecorder, QuietRecorder
from dynamo_genie.remote_daemon.engines.cudagraphs import CudaGraphs, Recorder
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import Executable, RunningProgram
from dynamo_genie.remote_daemon.engines.growing import GrowingGraphs
from dynamo_genie.remote_daemon.engines.inductor import compile_with_inductor
from dynamo_genie.remote_daemon.engines.tensorrt import compile_with_tensorrt, tensorrt_missing
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.process_limit import ProcessLimit
from dynamo_genie.remote_daemon.operators.fixed_step import FixedStep, NotFixed, fixed_step
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.operators.used_rows import attend_on
from dynamo_genie.runtime.wire.tensor import TensorSpec

COMPILERS: Mapping[str, Compile] = MappingProxyType({INDUCTOR: compile_with_inductor, TENSORRT: compile_with_tensorrt})


class Engines:
    """Makes programs run on one device; what its engines share lives here."""

    def __init__(
        self,
        buffers: BufferStore,
        arenas: KVArenas,
        process_limit: ProcessLimit,
        recorder: Callable[[torch.device], Recorder] = CudaRecorder,
    ) -> None:
        self._process_limit = process_limit
        self._buffers = buffers
        self._arenas = arenas
        self._background = Background("genie-compile")
        self._recorder = QuietRecorder(recorder(buffers.device), self._background)

    def build(self, resolved: ResolvedProgram, wanted: str, name: str) -> RunningProgram:
        """Return a program, called `name` in the log, with the engine that was asked for, or the one that fits.

        Raises:
            ProtocolError: There is no such engine.
        """
        if wanted not in ENGINES:
            raise ProtocolError(f"there is no engine {wanted!r}; there are {', '.join(ENGINES)}")
        device = self._buffers.device
        constants = [self._buffers.from_bytes(each.spec, each.data) for each in resolved.program.constants]
        eager = compile_program(resolved, constants, self._arenas, self._process_limit.check)
        step, growth = self._fixed(resolved)
        traits = traits_of(resolved, growth)
        choice = choose(wanted, traits, device.type, tensorrt_missing() if wanted == TENSORRT else "")
        fast: Executable | None = None
        if choice.engine == CUDAGRAPHS and step is not None:
            form = compile_program(step.resolved, constants, self._arenas)
            graphs = CudaGraphs(form, traits_of(step.resolved), self._recorder)
            fast = GrowingGraphs(eager, step, graphs, self._arenas, self._on_device)
        elif choice.engine == CUDAGRAPHS:
            fast = CudaGraphs(eager, traits, self._recorder)
        elif choice.engine in COMPILERS:
            compiler = self._with_room(COMPILERS[choice.engine])
            fast = CompiledInBackground(resolved, constants, eager, compiler, self._background)
        return RunningProgram(name, eager, choice.engine, choice.reason, fast, fell_back=choice.refused)

    def _with_room(self, compiler: Compile) -> Compile:
        """Return a compiler that takes its memory beside the limit; one thread compiles, one program at a time."""

        def compile_with_room(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
            with self._process_limit.room_for_a_compiler():
                return compiler(graph, inputs)

        return compile_with_room

    def _on_device(self, numbers: Sequence[int]) -> torch.Tensor:
        return self._buffers.from_bytes(TensorSpec("int64", (len(numbers),), (1,)), array("q", numbers).tobytes())

    def _fixed(self, resolved: ResolvedProgram) -> tuple[FixedStep | None, str]:
        """Return the fixed form of a program whose caches grow, or why there is none."""
        if not resolved.arenas.appends:
            return None, ""
        try:
            return fixed_step(resolved, attend_on(resolved.device)), ""
        except NotFixed as error:
            return None, str(error)
