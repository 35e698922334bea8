"""A compiled graph as AOTAutograd calls it: arguments in, results out, one message a part in between.

Parameters and buffers are bound to the programs once; each call proves that the local ones are still those that
were sent. Results are remote tensors, except what the program must have here: inputs it mutates that are local,
and gradients of local parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from dynamo_genie.calls.call import GraphCall
from dynamo_genie.calls.client_part import ClientPart
from dynamo_genie.calls.parts import Placement
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.calls.saved import require_unmodified
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import locked, released
from dynamo_genie.lowering.output_shapes import OutputShapes
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.tensor.program_call import LivesElsewhere
from dynamo_genie.tensor.remote_tensor import handle_of

Place = Callable[[Sequence[Any]], Placement]
"""Returns the graph's parts for a call with these arguments, on connections that are alive."""


class CompiledGraph:
    """Calls a graph's programs; made once per graph, used by any thread, bound to each session it meets.

    Attributes:
        shapes: The shapes of the results.
        plan: What is known of all calls.
        place: Says where the parts of a call run.
    """

    _boxed_call = True

    def __init__(self, shapes: OutputShapes, plan: CallPlan, place: Place) -> None:
        self.shapes = shapes
        self.plan = plan
        self.place = place

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties `args`, so that arguments can die as soon as they are sent."""
        if self.plan.backward:
            require_unmodified(args)
        placement = self.place(args)
        alone = len(placement.steps) == len(placement.parts) == 1
        results = self._run_alone(placement, args) if alone else None
        if results is None:
            everyone = {*placement.sessions, *sessions_of(args)}
            with locked(everyone):
                results = self._run(placement, args, everyone)
        args.clear()
        return results

    def _run_alone(self, placement: Placement, args: list[Any]) -> list[Any] | None:
        """Run a graph of one part with the lock of its session alone; None, and nothing is done, if that is too few."""
        try:
            with placement.sessions[0].lock:
                return self._run(placement, args, placement.sessions)
        except LivesElsewhere:
            return None

    def _run(self, placement: Placement, args: list[Any], held: Collection[Session]) -> list[Any]:
        new = not placement.bound
        placement.bind(args, self.plan)
        call = GraphCall(placement, self.plan, self.shapes, args, held, CONNECTIONS.mesh)
        bindings = iter(placement.bound)
        for step in placement.steps:
            if isinstance(step, ClientPart):
                call.wanted_by(step).fetch()
                with released(held):  # what runs here is the program's own, and may wait for its other threads
                    call.run_here(step)
                CONNECTIONS.client_work.ran(step.operators)
                new = False
            else:
                bound = next(bindings)
                if not new:
                    bound.sync(args)
                call.send(step, bound, bound.session)
        return call.results()


def sessions_of(args: Sequence[Any]) -> set[Session]:
    """Return the sessions of the remote ones among a call's arguments."""
    return {handle.session for arg in args if (handle := handle_of(arg)) is not None}
