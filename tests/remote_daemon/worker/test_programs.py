"""What a worker asks of a Program is asked once, when it is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dynamo_genie.remote_daemon.engines.build import Engines
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.process_limit import ProcessLimit
from dynamo_genie.remote_daemon.operators import resolved_program
from dynamo_genie.remote_daemon.worker.programs import ProgramCache
from dynamo_genie.runtime.wire import program as p

CPU = torch.device("cpu")
PROGRAM = p.Program(
    p.PROGRAM_VERSION,
    (p.TensorInput(), p.TensorInput()),
    (),
    (
        p.Node("aten.cat.default", (p.Items((p.Ref(0), p.Ref(1))), 0)),
        p.Node("aten.add.Tensor", (p.Ref(2), p.Ref(2))),
        p.Node("aten.add.Tensor", (p.Ref(3), p.Ref(2))),
    ),
    (p.Ref(4),),
)


@pytest.mark.parametrize("engine", ["auto", "inductor"])
def test_loading_plans_arenas_once_and_resolves_each_operator_once(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any) -> Any:
            asked[f"{name} {args[0]}" if isinstance(args[0], str) else name] += 1
            return function(*args)

        return count

    for name in ("plan_arenas", "check_program", "resolve_operator"):
        monkeypatch.setattr(resolved_program, name, counted(name, getattr(resolved_program, name)))
    buffers = HostBufferStore()
    cache = ProgramCache(
        CPU,
        Engines(buffers, KVArenas(MemoryBudget(1 << 20), buffers.empty), ProcessLimit()).build,
        MemoryBudget(1 << 30),
    )
    encoded = p.encode_program(PROGRAM)
    digest = p.program_digest(encoded)
    assert cache.load(digest, encoded, engine) is cache.load(digest, b"", engine)
    assert asked == {
        "plan_arenas": 1,
        "check_program": 1,
        "resolve_operator aten.cat.default": 1,
        "resolve_operator aten.add.Tensor": 1,
    }
