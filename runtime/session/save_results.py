"""Fetching results that would take long to compute again, only to have them: another worker is then told them whole."""

from __future__ import annotations

import logging
from typing import Any

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.recovery.saving import LONG_CALLS
from dynamo_genie.runtime.session.bulk import BulkConnection
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensors import empty_like_spec, flat_bytes, spec_nbytes

log = logging.getLogger(__name__)


def shorten(recovery: Recovery[Any], commands: CommandQueue, bulk: BulkConnection) -> None:
    """Save results, if it would take long to compute all again that is wanted, and fetching them does not."""
    saving = recovery.saving
    if saving.prune() < LONG_CALLS:
        return

    def save(largest: int) -> tuple[m.FetchedTensor | None, ...]:
        return recovery.whole(lambda: bulk.over(lambda: _save(recovery, commands, bulk, largest)))

    nbytes = sum(spec_nbytes(found.spec) for found in save(0) if found is not None)
    if saving.worth(nbytes):
        save(nbytes)
        saving.prune()
    elif saving.let_go_of_oldest():  # that is said once
        log.warning(
            "the state of this session, %.0f MB, is too large to be kept on the client, and the calls that made it are "
            "too many to be done again: it does not survive its worker; save what must",
            nbytes / 1e6,
        )


def _save(
    recovery: Recovery[Any], commands: CommandQueue, bulk: BulkConnection, largest: int
) -> tuple[m.FetchedTensor | None, ...]:
    handles = recovery.saving.all()  # as they are now: some may have died while an answer was awaited
    request_id = commands.ask_to_save(handles, largest, awaited=True)
    reply = commands.wait(request_id)
    if not isinstance(reply, m.Saved) or len(reply.tensors) != len(handles):
        raise ProtocolError(f"expected {len(handles)} saved tensors, got {type(reply).__name__}")
    recovery.saving.take(reply, [_download(bulk, found) for found in reply.tensors])
    return reply.tensors


def _download(bulk: BulkConnection, found: m.FetchedTensor | None) -> torch.Tensor | None:
    """Return a tensor that comes by bulk; None for others."""
    if found is None or not found.download:
        return None
    tensor = empty_like_spec(found.spec)
    bulk.download(found.download, flat_bytes(tensor), "output")
    return tensor
