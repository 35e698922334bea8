"""Certificates of kernels: which of them give the same bits for pieces as for the whole, tried once on each worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.lowering.graph import LoweredProgram, lower
from dynamo_genie.passes.pipelines.pipeline import Pipeline
from dynamo_genie.passes.rows.certificates import Kernel, comparison, kernels_of
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.tensor.program_call import ProgramCall


def refuted(pipeline: Pipeline, fleet: Fleet) -> tuple[str, ...]:
    """Return the kernels whose bits depend on the pieces, on some worker; the caller holds the locks of all sessions.

    What is not known yet the workers find out, all at the same time, in as long as two calls of each operator take.
    """
    kernels = kernels_of(pipeline.analysis, pipeline.cut.pieces)
    devices = dict.fromkeys(partition.device for partition in pipeline.plan.partitions)
    asked = [(device, _ask(pipeline, kernels, fleet, device)) for device in devices]
    found: dict[str, None] = {}
    for device, (session, unknown, handles) in asked:
        known = fleet.certificates(session)
        if handles:
            equal = session.fetch([handle.id for handle in handles], ["control"] * len(handles))
            known.update(zip((kernel.text for kernel in unknown), map(bool, equal), strict=True))
        found.update(dict.fromkeys(f"{kernel.text}, on {device}" for kernel in kernels if not known[kernel.text]))
    return tuple(found)


def _ask(
    pipeline: Pipeline, kernels: Sequence[Kernel], fleet: Fleet, device: str
) -> tuple[Session, Sequence[Kernel], list[Handle]]:
    """Have a worker compare what is not known yet of it; waits for nothing."""
    session = fleet.connection(device).session
    known: Mapping[str, bool] = fleet.certificates(session)
    unknown = [kernel for kernel in kernels if kernel.text not in known]
    if not unknown:
        return session, unknown, []
    gm = comparison(unknown, pipeline.analysis, pipeline.cut.pieces)
    handles = _post(session, lower(gm, facts=False))
    session.flush()
    return session, unknown, handles


def _post(session: Session, lowered: LoweredProgram) -> list[Handle]:
    number = session.register(lowered.digest, lowered.encoded, lowered.node_lines)
    call = ProgramCall(session, lowered.program)
    handles = [call.name_result("control") for _ in lowered.program.outputs]
    call.post(number, counted="eager_calls")
    return handles
