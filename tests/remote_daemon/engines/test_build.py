"""The engines of a card, with a tape for its recorder: a program that is built runs, and records beside no compiler."""

from __future__ import annotations

import threading

import torch

from dynamo_genie.engines import CUDAGRAPHS
from dynamo_genie.remote_daemon.engines.build import Engines
from dynamo_genie.remote_daemon.engines.choice import WORTH_RECORDING_NODES
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.process_limit import ProcessLimit
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.recorded import TapeRecorder

CARD = torch.device("cuda", 0)


def test_a_program_on_a_card_is_recorded_once_nothing_is_compiled() -> None:
    tapes: list[TapeRecorder] = []

    def recorder(device: torch.device) -> TapeRecorder:
        assert device == CARD
        tapes.append(TapeRecorder(device))
        return tapes[-1]

    buffers = HostBufferStore()
    buffers.device = CARD
    engines = Engines(buffers, KVArenas(MemoryBudget(1 << 20)), ProcessLimit(), recorder)
    nodes = tuple(p.Node("aten.add.Scalar", (p.Ref(number), 1)) for number in range(WORTH_RECORDING_NODES))
    program = p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), nodes, (p.Ref(len(nodes)),))
    running = engines.build(resolve_program(program, CARD), CUDAGRAPHS, "chain")
    compiled = threading.Event()
    job = engines._background.submit(compiled.wait)
    with torch.inference_mode():
        for value in range(6):
            if value == 3:
                compiled.set()
                job.result(30)
            assert running([torch.full((2,), float(value))])[0].tolist() == [value + len(nodes)] * 2
    assert (running.engine, running.fell_back) == (CUDAGRAPHS, False)
    assert [(tape.recordings, tape.replays) for tape in tapes] == [(1, 3)]
