"""Eager operators on remote tensors: one-node Programs, sent without waiting.

Shapes of results come from fake tensors, remembered by structure, so a loop that repeats its operators neither
traces nor waits. An operator that writes into a local tensor, or that no daemon runs, reads its remote arguments
and runs here; the second case is logged and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.engines import EAGER
from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.runtime.session.read_back import ReadBack
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.schemas import OperatorSchema, read_schema
from dynamo_genie.tensor.bring_together import gather
from dynamo_genie.tensor.operator_lowering import StructureKey, flatten_call, lower_operator
from dynamo_genie.tensor.operator_metadata import Metadata, ResultMetadata, infer_results
from dynamo_genie.tensor.program_call import ProgramCall
from dynamo_genie.tensor.remote_tensor import RemoteTensor, Tangent
from dynamo_genie.tensors import TORCH_DTYPES
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves, tree_map_only

log = logging.getLogger(__name__)
aten = torch.ops.aten

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def run_operator(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Run one operator, at least one of whose arguments is a remote tensor; returns what eager returns."""
    if type(func) is not OpOverload or _is_tracing(args, kwargs):
        return _trace(func, args, kwargs)
    special = _SPECIAL.get(func)
    return _send(func, args, kwargs) if special is None else special(func, args, kwargs)


def _send(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Run an operator in the daemon, unless what it writes or returns belongs here."""
    schema = read_schema(func)
    if _must_run_here(schema, args, kwargs):
        return _run_here(func, args, kwargs)
    generator = kwargs.get("generator")
    if generator is not None:
        kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
    structure, tensors, scalars = flatten_call(func, args, kwargs)
    metas = tuple([(tuple(t.shape), t.stride(), t.dtype, t.storage_offset()) for t in tensors])
    default = torch.get_default_dtype()
    results = infer_results(func, structure, tuple(scalars), metas, default)
    lowered = _lower(func, structure, results.list_lengths, default)
    if lowered is None:
        return _run_unsupported(func, schema, args, kwargs)
    kind = Tangent if any(type(tensor) is Tangent for tensor in tensors) else RemoteTensor
    session, tensors = _together(schema, tensors, args, kwargs)
    new = _call(session, lowered, results, tensors, scalars, generator)
    return _wrap(kind, schema, args, kwargs, new, results.layout)


def read_together(tensors: list[RemoteTensor]) -> list[torch.Tensor]:
    """Fetch several remote tensors, in one round trip for each daemon that has some."""
    local: dict[int, torch.Tensor] = {}
    wanted = ReadBack()
    for position, tensor in enumerate(tensors):
        handle = tensor.handle
        assert handle is not None
        wanted.want_handle(handle, handle.kind, partial(local.__setitem__, position))
    wanted.fetch()
    return [local[position] for position in range(len(tensors))]


@lru_cache(maxsize=4096)
def _lower(
    func: OpOverload, structure: StructureKey, lengths: tuple[int, ...], default_dtype: torch.dtype
) -> LoweredProgram | None:
    try:
        return lower_operator(func, structure, lengths)
    except UnsupportedOperator:
        return None


def _is_tracing(args: Args, kwargs: Kwargs) -> bool:
    """Whether a remote tensor without a handle is among the arguments: Dynamo or AOTAutograd traces."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, RemoteTensor):
            return value.handle is None
        if type(value) in (list, tuple):
            for item in value:
                if isinstance(item, RemoteTensor):
                    return item.handle is None
    return False


def _together(
    schema: OperatorSchema, tensors: list[torch.Tensor], args: Args, kwargs: Kwargs
) -> tuple[Session, list[torch.Tensor]]:
    """Return the session of the remote arguments, and the tensors, moved where they live on several daemons."""
    session: Session | None = None
    for tensor in tensors:
        if isinstance(tensor, RemoteTensor):
            assert tensor.handle is not None
            if session is not None and session is not tensor.handle.session:
                return gather(tensors, _staying(schema, args, kwargs))
            session = tensor.handle.session
    assert session is not None
    return session, tensors


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
        if length >= 0:
            values.append([_remote(kind, *next(new), base) for _ in range(length)])
        else:
            values.append(_remote(kind, *next(new), base))
    if len(values) == 1:
        return values[0]
    return tuple(values) if values else None


def _remote(kind: type[RemoteTensor], handle: Handle, meta: Metadata, base: RemoteTensor | None) -> RemoteTensor:
    if base is not None and base.handle is not None:
        handle.root = base.handle.root
        handle.root_nbytes = base.memory_nbytes
    return kind(meta[0], meta[1], meta[2], handle, None, meta[3])


# --- operators that read ---------------------------------------------------------------------------------


def _must_run_here(schema: OperatorSchema, args: Args, kwargs: Kwargs) -> bool:
    """Whether the operator writes into a local tensor, or answers with a plain number."""
    if any(result.form == "scalar" for result in schema.results):
        return True
    for which in schema.writes:
        for written in tree_leaves(schema.argument(which, args, kwargs)):
            if isinstance(written, torch.Tensor) and not isinstance(written, RemoteTensor):
                return True
    return False


def _run_here(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Read the remote arguments, in one round trip, and run the operator on the client."""
    remote = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, RemoteTensor)]
    local = iter(read_together(remote))
    args, kwargs = tree_map_only(RemoteTensor, lambda _: next(local), (args, kwargs))
    return func(*args, **kwargs)


def _run_out(func: Any, schema: OperatorSchema, args: Args, kwargs: Kwargs) -> Any:
    """Run the form of an `out=` operator that returns new tensors, and copy them where the caller wants them."""
    wanted = [kwargs[str(which)] for which in schema.writes]
    rest = {name: value for name, value in kwargs.items() if name not in schema.writes}
    made = func.overloadpacket(*args, **rest)
    for out, value in zip(wanted, made if isinstance(made, tuple) else (made,), strict=True):
        if out.shape != value.shape:
            raise UnsupportedOperator(f"{func} would resize a remote out= tensor from {out.shape} to {value.shape}")
        out.copy_(value)
    return wanted[0] if len(wanted) == 1 else tuple(wanted)


def _run_unsupported(func: Any, schema: OperatorSchema, args: Args, kwargs: Kwargs) -> Any:
    if schema.writes and all(isinstance(which, str) for which in schema.writes):
        return _run_out(func, schema, args, kwargs)
    if schema.writes:
        raise UnsupportedOperator(f"{func} writes into a remote tensor and is not in the table of operators")
    remote = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, RemoteTensor))
    assert remote.handle is not None
    remote.handle.session.counters.events["local_reads"] += 1
    log.warning("%s is not in the table of operators; its remote arguments are read and it runs on the client", func)
    return _run_here(func, args, kwargs)


# --- operators with a shorter way ------------------------------------------------------------------------


def _same_tensor(func: Any, args: Args, kwargs: Kwargs) -> RemoteTensor:
    """`detach` and `alias`: another tensor object for the same remote tensor; nothing is sent."""
    source = args[0]
    return type(source)(source.shape, source.stride(), source.dtype, source.handle, None, source.storage_offset())  # type: ignore[no-any-return]


def _to_number(func: Any, args: Args, kwargs: Kwargs) -> Any:
    [local] = read_together([args[0]])
    return local.item()


def _equal(func: Any, args: Args, kwargs: Kwargs) -> bool:
    left, right = args
    if left.shape != right.shape:
        return False
    return bool(aten.all.default(aten.eq.Tensor(left, right)).item())


def _to_copy(func: Any, args: Args, kwargs: Kwargs) -> Any:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != "cpu":
        return _run_here(func, args, kwargs)
    return _send(func, args, kwargs)


_SPECIAL: MappingProxyType[Any, Callable[[Any, Args, Kwargs], Any]] = MappingProxyType(
    {
        aten.detach.default: _same_tensor,
        aten.alias.default: _same_tensor,
        aten._local_scalar_dense.default: _to_number,
        aten.equal.default: _equal,
        aten._to_copy.default: _to_copy,
    }
)
