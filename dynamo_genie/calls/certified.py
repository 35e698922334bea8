"""Certificates of kernels: which of them give the same bits for pieces as for the whole, tried once on each worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.lowering.graph import LoweredProgram, lower
from dynamo_genie.passes.pipelines.pipeline import Pipeline
from dynamo_genie.passes.rows.certificates import ComparedKernel, comparison, kernels_of
from dynamo_genie.passes.rows.places import is_misplaced
from dynamo_genie.passes.understanding.cost import flops_of
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.tensor.program_call import ProgramCall

_AT_ONCE = 8
"""Kernels that are compared before it is asked how they fared: one that differs spares the others."""


def refuted(pipeline: Pipeline, fleet: Fleet) -> tuple[str, ...]:
    """Return kernels whose bits depend on the pieces, on some worker; the caller holds the locks of all sessions.

    What is not known yet the workers find out, all at the same time, the least work first and as long as all is well:
    together as long as two calls of each operator take, once.
    """
    kernels = sorted(kernels_of(pipeline.analysis, pipeline.cut.pieces), key=lambda kernel: flops_of(kernel.node) or 0)
    found, rows = pipeline.analysis.found, pipeline.analysis.rows
    misplaced = [
        kernel for kernel in kernels if is_misplaced(kernel.node, found[kernel.node], rows, pipeline.cut.pieces)
    ]
    if misplaced:
        return tuple(f"{kernel.text}, which rounds the last entries of a tensor otherwise" for kernel in misplaced)
    devices = dict.fromkeys(partition.device for partition in pipeline.plan.partitions)
    sessions = {device: fleet.connection(device).session for device in devices}
    for some in _some(kernels):
        asked = [(session, *_ask(pipeline, some, fleet, session)) for session in sessions.values()]
        for session, unknown, handles in asked:
            if handles:
                equal = session.fetch([handle.id for handle in handles], ["control"] * len(handles))
                texts = (kernel.text for kernel in unknown)
                fleet.certificates(session).update(zip(texts, map(bool, equal), strict=True))
        wrong = [
            f"{kernel.text}, on {device}"
            for device, session in sessions.items()
            for kernel in some
            if not fleet.certificates(session)[kernel.text]
        ]
        if wrong:
            return tuple(wrong)
    return ()


def _some(kernels: Sequence[ComparedKernel]) -> Iterator[Sequence[ComparedKernel]]:
    for begin in range(0, len(kernels), _AT_ONCE):
        yield kernels[begin : begin + _AT_ONCE]


def _ask(
    pipeline: Pipeline, kernels: Sequence[ComparedKernel], fleet: Fleet, session: Session
) -> tuple[Sequence[ComparedKernel], list[Handle]]:
    """Have a worker compare what is not known yet of it; waits for nothing."""
    known = fleet.certificates(session)
    unknown = [kernel for kernel in kernels if kernel.text not in known]
    if not unknown:
        return unknown, []
    gm = comparison(unknown, pipeline.analysis, pipeline.cut.pieces)
    handles = _post(session, lower(gm, facts=False))
    session.flush()
    return unknown, handles


def _post(session: Session, lowered: LoweredProgram) -> list[Handle]:
    number = session.register(lowered.digest, lowered.encoded, lowered.node_lines)
    call = ProgramCall(session, lowered.program)
    handles = [call.name_result("control") for _ in lowered.program.outputs]
    call.post(number, counted="eager_calls")
    return handles
