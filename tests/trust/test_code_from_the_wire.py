"""The message of an assertion as an attack: text that would become C++ statements if a compiler saw it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.compiled import CompiledInBackground
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import Executable, NodeError
from dynamo_genie.remote_daemon.engines.inductor import compile_with_inductor
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import program as p

CPU = torch.device("cpu")
LIMIT_S = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def asserting(message: str) -> p.Program:
    """X + 1, if the condition holds."""
    nodes = (
        p.Node("aten._assert_async.msg", (p.Ref(0), message)),
        p.Node("aten.add.Tensor", (p.Ref(1), 1)),
    )
    program = p.Program(p.PROGRAM_VERSION, (p.TensorInput(), p.TensorInput()), (), nodes, (p.Ref(3),))
    p.validate_program(program)
    return program


def failure(run: Executable) -> tuple[int, str, str]:
    with pytest.raises(NodeError) as caught:
        run([torch.tensor(False), torch.ones(3)])
    cause = caught.value.__cause__
    assert type(cause) is RuntimeError
    return caught.value.node, caught.value.operator, str(cause)


@torch.inference_mode()
def test_the_message_of_an_assertion_is_no_program(tmp_path: Path) -> None:
    proof = tmp_path / "x"
    message = f'"), 0)); system("touch {proof}"); (1 ? 0 : (throw std::runtime_error("'
    program = asserting(message)
    resolved = resolve_program(program, CPU)
    eager = compile_program(resolved, ())
    compiled = CompiledInBackground(resolved, (), eager, compile_with_inductor, Background("test-compile"))
    compiled([torch.tensor(True), torch.ones(3)])
    compiled.wait(LIMIT_S)
    (form,) = compiled._forms.values()
    assert form.exception() is None
    assert torch.equal(compiled([torch.tensor(True), torch.ones(3)])[0], torch.full((3,), 2.0))
    assert not proof.exists()
    assert failure(compiled) == failure(eager) == (0, "aten._assert_async.msg", message)
    assert not proof.exists()
