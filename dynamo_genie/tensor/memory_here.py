"""The memory of remote tensors, read or brought here: who fetches how much of it, and what is kept.

A remote tensor that code wants to touch (a pointer, a NumPy array, a storage) is *brought here*: its memory, and so
that of all its views, is in this process from then on, as if it had never been elsewhere. Reading alone brings nothing
here; of small memory that is read again, what was read is kept until a command writes to it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dynamo_genie.errors import NoMemoryHere
from dynamo_genie.runtime.session.read_back import ReadBack
from dynamo_genie.tensor.in_daemon import InDaemon
from dynamo_genie.tensors import is_dense
from dynamo_genie.torch_internals.guarded_memory import answering_in_python, answers_in_python
from dynamo_genie.torch_internals.opaque import opaque

log = logging.getLogger(__name__)
aten = torch.ops.aten

MAX_KEPT_NBYTES = 64 << 10
"""Memory up to this size is kept whole when it is read again."""


def read(tensor: InDaemon) -> torch.Tensor:
    """Return the values of a remote tensor, as a plain tensor that nobody else has."""
    [local] = read_together([tensor])
    return local


def read_together(tensors: Sequence[InDaemon]) -> list[torch.Tensor]:
    """Return the values of several remote tensors, in one round trip for each daemon that must be asked."""
    if not answers_in_python():
        with answering_in_python():
            return read_together(tensors)
    found: dict[int, torch.Tensor] = {}
    wanted = ReadBack()
    asked: set[int] = set()
    for position, tensor in enumerate(tensors):
        kept = None if id(tensor.memory) in asked else _kept(tensor)
        if kept is not None:
            found[position] = view_of(kept, tensor).clone()
            continue
        handle = tensor.named()
        asked.add(id(tensor.memory))
        wanted.want_handle(handle, handle.kind, partial(found.__setitem__, position))
    wanted.fetch()
    return [found[position] for position in range(len(tensors))]


@opaque
def read_number(tensor: InDaemon) -> Any:
    """Return the one element of a remote tensor as a plain number; raise as `Tensor.item` does where it has several."""
    memory, dtype = tensor.memory, tensor.dtype
    if memory.contents is None or tensor.numel() != 1 or memory.contents.numel() % dtype.itemsize:
        return read(tensor).item()
    if memory.numbers is None or memory.numbers[0] is not dtype:
        memory.numbers = dtype, memory.contents.view(dtype).tolist()
    return memory.numbers[1][tensor.storage_offset()]


def bring_here(tensor: InDaemon) -> torch.Tensor:
    """Bring the memory of a remote tensor here, and return the plain tensor that shares it from then on.

    The remote tensor and all its views are on that memory too: operators on them run here, and compiled calls send
    what is in it, as they do with any plain tensor.

    Raises:
        NoMemoryHere: The tensor never comes here, or a view of its memory reads bytes as conjugates or negatives.
    """
    _refuse_to_move(tensor)
    memory = tensor.memory
    if memory.local is None:
        session = tensor.named().session
        with session.lock:
            if memory.local is None:
                memory.local = _all_of(tensor)
                memory.written()
                session.counters.events["brought_here"] += 1
        log.info("a result of shape %s is on the client from now on: its memory was touched", tuple(tensor.shape))
    return view_of(memory.local, tensor)


def live_on(tensor: InDaemon, plain: torch.Tensor) -> None:
    """Let a remote tensor be a plain one from now on: on its memory, with its layout.

    Raises:
        NoMemoryHere: It never comes here.
    """
    _refuse_to_move(tensor)
    handle, storage = tensor.handle or tensor.base, plain.untyped_storage()
    assert handle is not None
    local = handle.memory.local
    if local is None or local.untyped_storage()._cdata != storage._cdata:
        handle = handle.session.unnamed_handle()
        handle.memory.local = _bytes_of(storage)
    layout = tuple(plain.shape), plain.stride(), plain.dtype
    tensor.become(type(tensor)(*layout, handle, None, plain.storage_offset()))


def _refuse_to_move(tensor: InDaemon) -> None:
    if tensor.stays:
        raise NoMemoryHere(
            f"a tensor on {tensor.device} has no memory here to be shared or replaced; use .cpu() for a copy of its "
            "values, copy_() to write some into it, and .to() to move it"
        )


def view_of(memory: torch.Tensor, tensor: InDaemon) -> torch.Tensor:
    """Return the part of memory that is here which a tensor is; of one made in inference mode, as one made there."""
    with torch.inference_mode(tensor.is_inference()):
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(memory.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _kept(tensor: InDaemon) -> torch.Tensor | None:
    """Return all memory that a tensor lives in, where it is here, or small and read for the second time."""
    memory = tensor.memory
    if memory.local is not None:
        return memory.local
    if memory.contents is not None:
        return memory.contents
    if not memory.reads:
        memory.reads = 1
        return None
    if memory.reinterpreted or tensor.memory_nbytes > MAX_KEPT_NBYTES:
        return None
    with tensor.named().session.lock:  # nobody writes between the fetch and its note
        memory.contents = _all_of(tensor)
    return memory.contents


def _all_of(tensor: InDaemon) -> torch.Tensor:
    """Fetch all memory that a tensor lives in."""
    if tensor.memory.reinterpreted:
        raise NoMemoryHere(
            "a result's memory is wanted here, and a view of it reads it as conjugates or negatives (`.conj()`, "
            "`.imag` of such); copy it first with .resolve_conj(), .resolve_neg() or .clone()"
        )
    nbytes = tensor.memory_nbytes
    whole = _whole(tensor, nbytes)
    handle = whole.named()
    [values] = handle.session.fetch([handle.id], [handle.kind])
    if values.stride() != whole.stride() or not values.untyped_storage().resizable():
        values = torch.empty_strided(whole.shape, whole.stride(), dtype=whole.dtype).copy_(values)
    return _bytes_of(values.untyped_storage())


def _whole(tensor: InDaemon, nbytes: int) -> InDaemon:
    """Return a tensor in the daemon that is all memory which another one lives in."""
    shape, stride, itemsize = tuple(tensor.shape), tensor.stride(), tensor.itemsize
    if tensor.nbytes == nbytes and not tensor.storage_offset() and is_dense(shape, stride):
        return tensor
    send = type(tensor).send_operator
    if nbytes % itemsize == 0:
        return send(aten.as_strided.default, (tensor, (nbytes // itemsize,), (1,), 0), {})  # type: ignore[no-any-return]
    one = send(aten.as_strided.default, (tensor, (1,), (1,), 0), {})
    single = send(aten.view.dtype, (one, torch.uint8), {})
    return send(aten.as_strided.default, (single, (nbytes,), (1,), 0), {})  # type: ignore[no-any-return]


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8).set_(storage)
