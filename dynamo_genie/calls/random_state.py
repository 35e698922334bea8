"""Programs that draw random numbers use the client's CPU generator: its state goes along and comes back advanced.

So the same seed gives what eager gives, and what the program draws next is what it would have drawn after eager.
The price is a round trip for every call that draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire import messages as m


def draw_remotely(
    session: Session,
    program: int,
    binding: int,
    inputs: Sequence[m.CallInput],
    outputs: Sequence[int],
    generator: torch.Generator | None = None,
) -> None:
    """Run a program that draws random numbers and advance the client's generator as eager would."""
    source = torch.default_generator if generator is None else generator
    request_id = session.request_id()
    state = source.get_state().numpy().tobytes()
    session.post(m.Call(program, binding, tuple(inputs), tuple(outputs), request_id, state), len(state))
    reply = session.wait(request_id)
    if not isinstance(reply, m.RngAdvanced):
        raise ProtocolError(f"expected RngAdvanced, got {type(reply).__name__}")
    source.set_state(torch.frombuffer(bytearray(reply.rng), dtype=torch.uint8))
