"""Eager operators on remote tensors: one-node Programs, sent without waiting.

Shapes of results come from fake tensors, remembered by structure, so a loop that repeats its operators neither
traces nor waits. Operators that PyTorch composes of others are taken apart, as autograd does, wherever they arrive
whole. What must run on the client is in `run_here`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.engines import EAGER
from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.schemas import OperatorSchema, read_schema
from dynamo_genie.tensor.bring_together import gather
from dynamo_genie.tensor.memory_here import read_number
from dynamo_genie.tensor.operator_lowering import ABSENT, StructureKey, flatten_call, lower_operator
from dynamo_genie.tensor.operator_metadata import Metadata, ResultMetadata, infer_results, metadata_of
from dynamo_genie.tensor.program_call import ProgramCall
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.tensor.run_here import (
    Args,
    Kwargs,
    Way,
    reshape_in_place,
    run_here,
    run_on_memory_here,
    run_unsupported,
    way_of,
    writes_here,
)
from dynamo_genie.tensors import TORCH_DTYPES
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves, tree_map_only

aten = torch.ops.aten


def run_operator(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Run one operator, at least one of whose arguments is a remote tensor; returns what eager returns."""
    where = _where(args, kwargs)
    if where is _Where.TRACED or not isinstance(func, OpOverload):
        return _trace(func, args, kwargs)
    if where is _Where.HERE:
        return run_on_memory_here(func, args, kwargs)
    special = _SPECIAL.get(func)
    return send_operator(func, args, kwargs) if special is None else special(func, args, kwargs)


def send_operator(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Run an operator in the daemon, unless what it writes or returns belongs here."""
    schema = read_schema(func)
    way = way_of(func)
    if way is Way.TAKEN_APART:
        return func.decompose(*args, **kwargs)
    if way is Way.RESHAPES:
        return reshape_in_place(func, args, kwargs)
    if way is Way.NEEDS_MEMORY or writes_here(schema, args, kwargs):
        return run_here(func, schema, args, kwargs)
    if way is Way.UNKNOWN:
        return run_unsupported(func, schema, args, kwargs)
    return _send(func, schema, args, kwargs)


def create(func: OpOverload, args: Args, kwargs: Kwargs, session: Session, kind: type[RemoteTensor]) -> Any:
    """Run an operator that has no remote argument on a session; what it makes is of a class, and lives there.

    Raises:
        UnsupportedOperator: No daemon runs it.
    """
    return _send(func, read_schema(func), args, kwargs, session, kind)


def _send(
    func: OpOverload,
    schema: OperatorSchema,
    args: Args,
    kwargs: Kwargs,
    session: Session | None = None,
    kind: type[RemoteTensor] | None = None,
) -> Any:
    generator = kwargs.get("generator")
    if generator is not None:
        kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
    structure, tensors, scalars = flatten_call(func, args, kwargs)
    metas = tuple([(tuple(t.shape), t.stride(), t.dtype, t.storage_offset()) for t in tensors])
    default = torch.get_default_dtype()
    results = infer_results(func, structure, tuple(scalars), metas, default)
    lowered = _lower(func, structure, results.layout, default)
    if lowered is None:
        return run_unsupported(func, schema, args, kwargs)
    if schema.writes:
        _require_tracked(tensors)
    if session is None:
        session, tensors = _together(schema, tensors, args, kwargs)
    kind = kind or _kind_of(tensors)
    new = _call(session, lowered, results, tensors, scalars, generator)
    return _wrap(kind, schema, args, kwargs, new, results.layout)


@lru_cache(maxsize=4096)
def _lower(
    func: OpOverload, structure: StructureKey, layout: tuple[int, ...], default_dtype: torch.dtype
) -> LoweredProgram | None:
    try:
        return lower_operator(func, structure, layout)
    except UnsupportedOperator:
        return None


class _Where(Enum):
    """Where the remote arguments of an operator are."""

    REMOTE = auto()
    HERE = auto()
    """The memory of one of them, at least, was brought here."""

    TRACED = auto()
    """Nowhere: Dynamo or AOTAutograd traces."""


def _where(args: Args, kwargs: Kwargs) -> _Where:
    found = _Where.REMOTE
    for value in (*args, *kwargs.values()) if kwargs else args:
        for item in value if type(value) in (list, tuple) else (value,):
            if isinstance(item, RemoteTensor):
                if item.traced:
                    return _Where.TRACED
                if item.memory.local is not None:
                    found = _Where.HERE
    return found


def _together(
    schema: OperatorSchema, tensors: list[torch.Tensor], args: Args, kwargs: Kwargs
) -> tuple[Session, list[torch.Tensor]]:
    """Return the session of the remote arguments, and the tensors, moved where they live on several daemons."""
    session: Session | None = None
    for tensor in tensors:
        if isinstance(tensor, RemoteTensor):
            handle = tensor.named()
            if session is not None and session is not handle.session:
                return gather(tensors, _staying(schema, args, kwargs))
            session = handle.session
    assert session is not None
    return session, tensors


def _require_tracked(tensors: list[torch.Tensor]) -> None:
    """Refuse a write whose gradient the tensor that is viewed would never hear of.

    Raises:
        UnsupportedOperator: It goes into an element that was taken out while its tensor wanted no gradient.
    """
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        return
    if any(isinstance(tensor, RemoteTensor) and not tensor.tracked for tensor in tensors):
        raise UnsupportedOperator(
            "a value with a gradient is written into an element of a result that was read before; take the element "
            "out with result.select(...), or write result[...] = value"
        )


def _staying(schema: OperatorSchema, args: Args, kwargs: Kwargs) -> list[RemoteTensor]:
    """Return the remote arguments that an operator writes, or whose memory its results share."""
    viewed = [result.argument for result in schema.results if result.argument is not None]
    found = (tree_leaves(schema.argument(which, args, kwargs)) for which in (*schema.writes, *viewed))
    return [leaf for leaves in found for leaf in leaves if isinstance(leaf, RemoteTensor)]


def _trace(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """While Dynamo or AOTAutograd traces, operate on the fake carriers; the graph sees plain tensors."""
    args, kwargs = tree_map_only(RemoteTensor, lambda tensor: tensor.carrier, (args, kwargs))
    return func(*args, **kwargs)


def _call(
    session: Session,
    lowered: LoweredProgram,
    results: ResultMetadata,
    tensors: list[torch.Tensor],
    scalars: list[int | float],
    generator: torch.Generator | None,
) -> Iterator[tuple[Handle, Metadata]]:
    """Send one operator call, a part without bindings; return the handle and shape of each new tensor."""
    with session.lock:
        session.check()
        number = session.register(lowered.digest, lowered.encoded, lowered.node_lines, EAGER)
        call = ProgramCall(session, lowered.program, immediate=any(map(_is_immediate, tensors)))
        for position, tensor in enumerate(tensors):
            call.add(position, tensor)
        call.inputs += scalars
        handles = [call.name_result() for _ in lowered.program.outputs]
        call.post(number, counted="eager_calls", generator=generator)
        metas = results.tensors if results.known else _ask(session, handles)
    return zip(handles, metas, strict=True)


def _kind_of(tensors: list[torch.Tensor]) -> type[RemoteTensor]:
    """Return the class of what is made from these: the one that is least like others among theirs."""
    kinds = [type(tensor) for tensor in tensors if isinstance(tensor, RemoteTensor)]
    return next((kind for kind in kinds if kind is not RemoteTensor), RemoteTensor)


def _is_immediate(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, RemoteTensor) and tensor.handle is not None and tensor.handle.immediate


def _ask(session: Session, handles: list[Handle]) -> tuple[Metadata, ...]:
    """Learn shapes that depend on the data from the daemon."""
    specs = session.describe(handles)
    return tuple((spec.shape, spec.stride, TORCH_DTYPES[spec.dtype], 0) for spec in specs)


def _wrap(
    kind: type[RemoteTensor],
    schema: OperatorSchema,
    args: Args,
    kwargs: Kwargs,
    new: Iterator[tuple[Handle, Metadata]],
    layout: tuple[int, ...],
) -> Any:
    """Return what eager returns: the new tensors, alone or in lists, and the arguments that were written."""
    values: list[Any] = []
    for result, length in zip(schema.results, layout, strict=True):
        argument = None if result.argument is None else schema.argument(result.argument, args, kwargs)
        if result.form == "self":
            values.append(argument)
            continue
        base = argument if isinstance(argument, RemoteTensor) else None
        if length == ABSENT:
            values.append(None)
        elif length >= 0:
            values.append([_remote(kind, *next(new), base) for _ in range(length)])
        else:
            values.append(_remote(kind, *next(new), base))
    if len(values) == 1:
        return values[0]
    return tuple(values) if values else None


def _remote(kind: type[RemoteTensor], handle: Handle, meta: Metadata, base: RemoteTensor | None) -> RemoteTensor:
    if base is None:
        return kind(meta[0], meta[1], meta[2], handle, None, meta[3])
    memory = base.memory
    memory.nbytes = base.memory_nbytes
    handle.memory = memory
    with torch.inference_mode(base.is_inference()):  # a view of what autograd follows is followed, too
        return kind(meta[0], meta[1], meta[2], handle, None, meta[3])


# --- operators with a shorter way ------------------------------------------------------------------------


def _same_tensor(func: Any, args: Args, kwargs: Kwargs) -> RemoteTensor:
    """`detach` and `alias`: another tensor object for the same remote tensor; nothing is sent."""
    source = args[0]
    with torch.inference_mode(source.is_inference()):
        same = type(source)(source.shape, source.stride(), source.dtype, source.handle, None, source.storage_offset())
    same.base = source.base
    return same  # type: ignore[no-any-return]


def _to_number(func: Any, args: Args, kwargs: Kwargs) -> Any:
    return read_number(args[0])


def _equal(func: Any, args: Args, kwargs: Kwargs) -> bool:
    left, right = args
    if left.shape != right.shape:
        return False
    return bool(aten.all.default(aten.eq.Tensor(left, right)).item())


def _is_set_to(func: Any, args: Args, kwargs: Kwargs) -> bool:
    left, right = args
    if not (isinstance(left, RemoteTensor) and isinstance(right, RemoteTensor)):
        return False
    return left.memory is right.memory and metadata_of(left) == metadata_of(right)


def _to_copy(func: Any, args: Args, kwargs: Kwargs) -> Any:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != "cpu":
        return run_here(func, read_schema(func), args, kwargs)
    return send_operator(func, args, kwargs)


def _slice_inverse(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Look at the memory as the other tensor lies in it, as the kernel does; fake tensors know views of one only."""
    tensor, source, *_ = args
    return aten.as_strided.default(tensor, source.shape, source.stride(), source.storage_offset())


def _reinterpret(func: Any, args: Args, kwargs: Kwargs) -> Any:
    args[0].memory.reinterpreted = True
    return send_operator(func, args, kwargs)


def _batch_norm(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Write the running statistics, as `native_batch_norm` does in training though its schema does not say so."""
    mean, variance, training = args[3:6]
    if not training or mean is None or variance is None:
        return send_operator(func, args, kwargs)
    *results, new_mean, new_variance = aten._native_batch_norm_legit_functional.default(*args, **kwargs)
    mean.copy_(new_mean)
    variance.copy_(new_variance)
    return tuple(results)


_SPECIAL: MappingProxyType[Any, Callable[[Any, Args, Kwargs], Any]] = MappingProxyType(
    {
        aten.detach.default: _same_tensor,
        aten.alias.default: _same_tensor,
        aten._local_scalar_dense.default: _to_number,
        aten.detach_.default: lambda func, args, kwargs: args[0],
        aten.is_pinned.default: lambda func, args, kwargs: False,
        aten.equal.default: _equal,
        aten.is_set_to.default: _is_set_to,
        aten.slice_inverse.default: _slice_inverse,
        aten._conj.default: _reinterpret,
        aten._neg_view.default: _reinterpret,
        aten._to_copy.default: _to_copy,
        aten.native_batch_norm.default: _batch_norm,
    }
)
