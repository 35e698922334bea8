"""From a Program and what was asked for to something that runs it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dynamo_genie.engines import CUDAGRAPHS, ENGINES, INDUCTOR, TENSORRT
from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.choice import choose
from dynamo_genie.remote_daemon.engines.compiled import Compile, CompiledInBackground
from dynamo_genie.remote_daemon.engines.cudagraphs import CudaGraphs, CudaRecorder, Recorder
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import Executable, RunningProgram
from dynamo_genie.remote_daemon.engines.inductor import compile_with_inductor
from dynamo_genie.remote_daemon.engines.tensorrt import compile_with_tensorrt, tensorrt_missing
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.runtime.wire.program import Program

COMPILERS: dict[str, Compile] = {INDUCTOR: compile_with_inductor, TENSORRT: compile_with_tensorrt}


class Engines:
    """Makes programs run on one device; what its engines share lives here."""

    def __init__(
        self, buffers: BufferStore, arenas: KVArenas, recorder: Callable[[torch.device], Recorder] = CudaRecorder
    ) -> None:
        self._buffers = buffers
        self._arenas = arenas
        self._recorder = recorder(buffers.device)
        self._background = Background("genie-compile")

    def build(self, program: Program, wanted: str, name: str) -> RunningProgram:
        """Return `program`, called `name` in the log, with the engine that was asked for, or the one that fits.

        Raises:
            ProtocolError: The program is malformed, or there is no such engine.
            UnsupportedOperator: This device cannot run one of its operators.
        """
        if wanted not in ENGINES:
            raise ProtocolError(f"there is no engine {wanted!r}; there are {', '.join(ENGINES)}")
        device = self._buffers.device
        constants = [self._buffers.from_bytes(constant.spec, constant.data) for constant in program.constants]
        eager = compile_program(program, device, constants, self._arenas)
        traits = traits_of(program, device)
        choice = choose(wanted, traits, device.type, tensorrt_missing() if wanted == TENSORRT else "")
        fast: Executable | None = None
        if choice.engine == CUDAGRAPHS:
            fast = CudaGraphs(eager, traits, self._recorder)
        elif choice.engine in COMPILERS:
            compiler = COMPILERS[choice.engine]
            fast = CompiledInBackground(program, device, constants, eager, compiler, self._background)
        return RunningProgram(name, eager, choice.engine, choice.reason, fast, fell_back=choice.refused)
