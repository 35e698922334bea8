"""Operators on remote tensors that run on the client: on memory that was brought here, or on values that are read.

What an operator writes, or returns a view of, is brought here for good, so nothing that it does is lost; of what it
only reads, the values come and the tensor stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import cache
from typing import Any, TypeVar

import torch

from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.lowering.arguments import is_in_table
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.schemas import OperatorSchema
from dynamo_genie.tensor.client_operators import announce_eager
from dynamo_genie.tensor.memory_here import bring_here, read_together
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.tensors import dense_form, is_dense
from dynamo_genie.torch_internals.operators import OpOverload, composes_others, meta_checks_out
from dynamo_genie.torch_internals.pytree import tree_leaves, tree_map_only

aten = torch.ops.aten

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

RemoteT = TypeVar("RemoteT", bound=RemoteTensor)


class Way(Enum):
    """How an operator on remote tensors is run."""

    SENT = auto()
    """As a Program."""

    UNKNOWN = auto()
    """Here: no daemon runs it."""

    TAKEN_APART = auto()
    """As the operators that PyTorch composes it of: without autograd, as in inference mode, it arrives whole."""

    RESHAPES = auto()
    """As the operator that returns a view, which the argument becomes."""

    NEEDS_MEMORY = auto()
    """Here, on memory that comes here: it changes what a tensor's memory is, or does not say what it writes."""


_STORAGE = frozenset({"set_", "resize_", "resize_as_", "resize_as_sparse_", "set_data"})
"""Operators that change what memory a tensor has."""


@cache
def way_of(func: OpOverload) -> Way:
    """Return how an operator is run."""
    name = func._schema.name.removeprefix("aten::")
    if func.namespace == "aten":
        if name in _STORAGE:
            return Way.NEEDS_MEMORY
        if torch.Tag.inplace_view in func.tags:
            return Way.RESHAPES
    elif func.namespace == "c10d":
        return Way.NEEDS_MEMORY  # collectives write without saying so
    if composes_others(func):
        return Way.TAKEN_APART  # in the table or not: such operators may answer with their argument
    return Way.SENT if is_in_table(func) else Way.UNKNOWN


def reshape_in_place(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Run `unsqueeze_` and its like: the tensor becomes the view that the other form returns."""
    tensor, *rest = args
    view = getattr(aten, func._schema.name.removeprefix("aten::").removesuffix("_"))(tensor, *rest, **kwargs)
    tensor.become(view)
    return tensor


def run_on_memory_here(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Run an operator some of whose remote arguments have their memory here, with plain tensors in their place."""
    return _with_plain(func, args, kwargs, lambda tensor: tensor.memory.local is not None)


def run_here(func: OpOverload, schema: OperatorSchema, args: Args, kwargs: Kwargs) -> Any:
    """Run an operator on the client; what it only reads comes in one round trip for each daemon."""
    places = range(len(schema.names)) if way_of(func) is Way.NEEDS_MEMORY else schema.shares
    shared = {id(leaf) for place in places for leaf in tree_leaves(schema.argument(place, args, kwargs))}
    remote = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, RemoteTensor)]
    if any(tensor.stays for tensor in remote):
        return _run_on_copies(func, schema, remote, args, kwargs)
    only_read = [tensor for tensor in remote if id(tensor) not in shared]
    values = {id(tensor): value for tensor, value in zip(only_read, read_together(only_read), strict=True)}
    args, kwargs = tree_map_only(RemoteTensor, lambda tensor: values.get(id(tensor), tensor), (args, kwargs))
    return _with_plain(func, args, kwargs, lambda tensor: True)


def _run_on_copies(
    func: OpOverload, schema: OperatorSchema, remote: list[RemoteTensor], args: Args, kwargs: Kwargs
) -> Any:
    """Run an operator on copies of tensors that stay where they are; what it makes or writes is sent there.

    Raises:
        UnsupportedOperator: It would change what memory a tensor has.
    """
    copies = dict(zip(map(id, remote), read_together(remote), strict=True))
    before = {key: _layout(copy) for key, copy in copies.items()}
    says = way_of(func) is not Way.NEEDS_MEMORY  # else it may write into any
    places = schema.writes if says else range(len(schema.names))
    written = {id(leaf) for place in places for leaf in tree_leaves(schema.argument(place, args, kwargs))}
    args, kwargs = tree_map_only(RemoteTensor, lambda tensor: copies[id(tensor)], (args, kwargs))
    result = func(*args, **kwargs)
    given: dict[int, torch.Tensor] = {}
    for tensor in remote:
        copy = copies[id(tensor)]
        given[id(copy)] = tensor
        if _layout(copy) != before[id(tensor)]:
            raise UnsupportedOperator(f"{func} changes the memory of a tensor on {tensor.device}")
        if id(tensor) in written:
            tensor.copy_(copy)

    def there(value: torch.Tensor) -> torch.Tensor:
        return given[id(value)] if id(value) in given else _sent_to(remote[0], value)

    return tree_map_only(torch.Tensor, there, result)


def _sent_to(where: RemoteTensor, value: torch.Tensor) -> RemoteTensor:
    """Return a plain tensor's values as a remote tensor where another one is, and of its class.

    Raises:
        UnsupportedOperator: It is sparse, or nested.
    """
    if value.layout != torch.strided:
        raise UnsupportedOperator(
            f"there are no tensors of layout {value.layout} on {where.device}; bring what it is made of here with "
            ".cpu()"
        )
    return send_values(value, where.named().session, type(where))


def send_values(plain: torch.Tensor, session: Session, kind: type[RemoteT]) -> RemoteT:
    """Return a plain tensor's values as a remote tensor of a class; elements without holes keep their strides."""
    dense = dense_form(plain)
    with session.lock:
        session.check()
        handle = session.put(dense, "input")
    return kind(tuple(dense.shape), dense.stride(), dense.dtype, handle)


def run_unsupported(func: OpOverload, schema: OperatorSchema, args: Args, kwargs: Kwargs) -> Any:
    """Run an operator that no daemon runs."""
    if schema.writes and all(isinstance(which, str) for which in schema.writes):
        return _run_out(func, schema, args, kwargs)
    remote = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, RemoteTensor))
    remote.named().session.counters.events["local_reads"] += 1
    announce_eager(func)
    return run_here(func, schema, args, kwargs)


def writes_here(schema: OperatorSchema, args: Args, kwargs: Kwargs) -> bool:
    """Say whether an operator writes into a local tensor, or answers with a plain number."""
    if any(result.form == "scalar" for result in schema.results):
        return True
    for which in schema.writes:
        for written in tree_leaves(schema.argument(which, args, kwargs)):
            if isinstance(written, torch.Tensor) and not isinstance(written, RemoteTensor):
                return True
    return False


def _with_plain(func: OpOverload, args: Args, kwargs: Kwargs, which: Any) -> Any:
    """Run an operator with plain tensors on the same memory in the place of remote ones that `which` picks."""
    taken: dict[int, tuple[RemoteTensor, torch.Tensor]] = {}

    def plain(tensor: RemoteTensor) -> Any:
        if not which(tensor):
            return tensor
        if id(tensor) not in taken:
            taken[id(tensor)] = tensor, bring_here(tensor)
        return taken[id(tensor)][1]

    args, kwargs = tree_map_only(RemoteTensor, plain, (args, kwargs))
    before = {key: _layout(value) for key, (_, value) in taken.items()}
    result = func(*args, **kwargs)
    for key, (tensor, value) in taken.items():
        if _layout(value) != before[key]:
            tensor.data = value
    given = {id(value): tensor for tensor, value in taken.values()}
    return tree_map_only(torch.Tensor, lambda value: given.get(id(value), value), result)


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.untyped_storage()._cdata, tensor.dtype


def _run_out(func: OpOverload, schema: OperatorSchema, args: Args, kwargs: Kwargs) -> Any:
    """Run the form of an `out=` operator that returns new tensors, and copy them where the caller wants them."""
    wanted = [kwargs[str(which)] for which in schema.writes]
    rest = {name: value for name, value in kwargs.items() if name not in schema.writes}
    _require_writable(func, args, kwargs)
    if "dtype" in _options_without_out(func) and rest.get("dtype") is None:
        rest["dtype"] = tree_leaves(wanted)[0].dtype  # in which PyTorch computes then, not only returns
    made = _with_plain_generator(func.overloadpacket, args, rest)
    for out, value in zip(tree_leaves(wanted), tree_leaves(made), strict=True):
        if not torch.can_cast(value.dtype, out.dtype) and "generator" not in _options_without_out(func):
            raise RuntimeError(f"result type {value.dtype} can't be cast to the desired output type {out.dtype}")
        if out.shape != value.shape:
            out.resize_(value.shape)
            if out.stride() != value.stride() and is_dense(value.shape, value.stride()):
                out.as_strided_(value.shape, value.stride())
        out.copy_(value)
    if not schema.results:
        return None
    return wanted[0] if len(wanted) == 1 else tuple(wanted)


def _with_plain_generator(function: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """Call a function that draws here: from the CPU's twin of a generator that says it is elsewhere."""
    generator = kwargs.get("generator")
    if generator is None or generator.device.type == "cpu":
        return function(*args, **kwargs)
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    try:
        return function(*args, **{**kwargs, "generator": twin})
    finally:
        generator.set_state(twin.get_state())


def _require_writable(func: OpOverload, args: Args, kwargs: Kwargs) -> None:
    """Let PyTorch check an `out=` operator, by tensors without values.

    Raises:
        RuntimeError: It does not write such results to tensors of these dtypes.
    """
    if not meta_checks_out(func):
        return
    args, kwargs = tree_map_only(torch.Tensor, _without_values, (args, kwargs))
    with suppress(NotImplementedError, TypeError):  # some stand-ins in Python know no `out`
        func(*args, **kwargs)


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@cache
def _options_without_out(func: OpOverload) -> frozenset[str]:
    """Return the names of the keyword arguments of an `out=` operator and of its form that makes a new tensor."""
    name = func._overloadname.removesuffix("out").removesuffix("_") or "default"
    forms = func, getattr(func.overloadpacket, name, func)
    return frozenset(argument.name for form in forms for argument in form._schema.arguments if argument.kwarg_only)
