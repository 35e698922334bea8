"""The engines of one device: from a resolved Program and what was asked for to something that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from dynamo_genie.engines import CUDAGRAPHS, ENGINES, INDUCTOR, TENSORRT
from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.choice import choose
from dynamo_genie.remote_daemon.engines.compiled import Compile, CompiledInBackground
from dynamo_genie.remote_daemon.engines.cuda_recorder import CudaRecorder, QuietRecorder
from dynamo_genie.remote_daemon.engines.cudagraphs import CudaGraphs, Recorder
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import Executable, RunningProgram
from dynamo_genie.remote_daemon.engines.inductor import compile_with_inductor
from dynamo_genie.remote_daemon.engines.tensorrt import compile_with_tensorrt, tensorrt_missing
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram

COMPILERS: Mapping[str, Compile] = MappingProxyType({INDUCTOR: compile_with_inductor, TENSORRT: compile_with_tensorrt})


class Engines:
    """Makes programs run on one device; what its engines share lives here."""

    def __init__(
        self, buffers: BufferStore, arenas: KVArenas, recorder: Callable[[torch.device], Recorder] = CudaRecorder
    ) -> None:
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
        eager = compile_program(resolved, constants, self._arenas)
        traits = traits_of(resolved)
        choice = choose(wanted, traits, device.type, tensorrt_missing() if wanted == TENSORRT else "")
        fast: Executable | None = None
        if choice.engine == CUDAGRAPHS:
            fast = CudaGraphs(eager, traits, self._recorder)
        elif choice.engine in COMPILERS:
            compiler = COMPILERS[choice.engine]
            fast = CompiledInBackground(resolved, constants, eager, compiler, self._background)
        return RunningProgram(name, eager, choice.engine, choice.reason, fast, fell_back=choice.refused)
