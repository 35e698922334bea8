"""One eager operator call to a Program of one node, so that calls that differ only in numbers share a Program.

`flatten_call` is the quick half, run at every call; `lower_operator` is the slow half, run once per structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from dynamo_genie.lowering.arguments import HANDLED_BY_WORKER, dtype_name, lower_leaf, operator_key
from dynamo_genie.lowering.graph import LoweredProgram, finish
from dynamo_genie.passes.graphs.portable_operators import draws_random_numbers
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves

# Marks in a structure key. Bytes, because no operator takes bytes, so no literal can look like a mark.
_TENSOR, _INT, _FLOAT = b"T", b"I", b"F"
_KINDS: Mapping[bytes, p.ScalarKind] = MappingProxyType({_INT: "int", _FLOAT: "float"})
ABSENT = -2
"""In place of the length of a list: the result is None."""

_LITERALS = frozenset({bool, type(None), str, torch.dtype, torch.layout, torch.memory_format})

StructureKey: TypeAlias = tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]


def flatten_call(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[StructureKey, list[torch.Tensor], list[int | float]]:
    """Split a call into its structure (hashable), its tensors and its numbers, each in order of appearance.

    Lists keep their length in the structure; booleans, None, strings and dtypes stay in it; devices vanish.
    """
    tensors: list[torch.Tensor] = []
    scalars: list[int | float] = []
    positional = tuple([_flatten(value, tensors, scalars) for value in args])
    if not kwargs:
        return (positional, ()), tensors, scalars
    names = kwargs if len(kwargs) == 1 else sorted(kwargs)
    named = [(name, _flatten(kwargs[name], tensors, scalars)) for name in names if name not in HANDLED_BY_WORKER]
    return (positional, tuple(named)), tensors, scalars


def _flatten(value: Any, tensors: list[torch.Tensor], scalars: list[int | float]) -> Any:
    kind = type(value)
    if kind is int:
        scalars.append(value)
        return _INT
    if kind in _LITERALS:
        return value
    if kind is float:
        scalars.append(value)
        return _FLOAT
    if kind is list or kind is tuple:
        return tuple([_flatten(item, tensors, scalars) for item in value])
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return _TENSOR
    if kind is torch.device:
        return None
    if kind is complex:  # repr, because 1+0j == 1 == True and 0j == -0j
        return (complex, repr(value))
    if isinstance(value, (list, tuple)):  # torch.Size and other sequences
        return tuple([_flatten(item, tensors, scalars) for item in value])
    return value


def lower_operator(func: OpOverload, structure: StructureKey, layout: Sequence[int] = ()) -> LoweredProgram:
    """Return the Program of one eager call; its inputs are the call's tensors, then its numbers.

    Its outputs are the results in the order of the schema, lists laid out flat; a result that is one of the
    arguments written in place, or that is None, is left out.

    Args:
        func: The operator, as `__torch_dispatch__` receives it.
        structure: What `flatten_call` returned for the call.
        layout: For each return of the schema, the number of tensors of a list, ABSENT for None, or -1 otherwise;
            empty where it returns neither lists nor None.
    """
    key = operator_key(func, None)
    marks = [leaf for leaf in tree_leaves(structure) if type(leaf) is bytes]
    tensors = (p.TensorInput(),) * marks.count(_TENSOR)
    scalars = tuple(p.ScalarInput(_KINDS[mark]) for mark in marks if mark != _TENSOR)
    inputs: tuple[p.TensorInput | p.ScalarInput, ...] = (*tensors, *scalars)
    numbers = [p.Ref(number) for number in range(len(inputs))]
    positional, named = rebuild_call(structure, numbers[: len(tensors)], numbers[len(tensors) :])
    args = tuple(_lower(value, key) for value in positional)
    kwargs = tuple((name, _lower(value, key)) for name, value in named.items())
    nodes = [p.Node(key, args, kwargs)]
    outputs, scalar_outputs = _outputs(func, nodes, len(inputs), layout)
    program = p.Program(
        version=p.PROGRAM_VERSION,
        inputs=inputs,
        constants=(),
        nodes=tuple(nodes),
        outputs=outputs,
        mutated_inputs=_mutated_inputs(func, args, dict(kwargs)),
        random=draws_random_numbers(func),
        default_dtype=dtype_name(torch.get_default_dtype()),
    )
    return finish(program, (None,) * len(nodes), scalar_outputs=scalar_outputs)


def _lower(value: Any, key: str) -> p.Argument:
    if isinstance(value, list):
        return p.Items(tuple(_lower(item, key) for item in value))
    return value if isinstance(value, p.Ref) else lower_leaf(value, key, None)


def _outputs(
    func: OpOverload, nodes: list[p.Node], value: int, layout: Sequence[int]
) -> tuple[tuple[p.Argument, ...], tuple[int, ...]]:
    """Return references to the results, adding the "getitem" nodes that take them out of the call's value."""
    outputs: list[p.Argument] = []
    scalars: list[int] = []
    call = value
    results = read_schema(func).results

    def item_of(container: int, position: int) -> int:
        nodes.append(p.Node("getitem", (p.Ref(container), position)))
        return call + len(nodes) - 1

    lengths = layout or (-1,) * len(results)
    for position, (result, length) in enumerate(zip(results, lengths, strict=True)):
        if result.form == "self" or length == ABSENT:
            continue
        source = call if len(results) == 1 else item_of(call, position)
        if result.form == "list":
            outputs += [p.Ref(item_of(source, i)) for i in range(length)]
            continue
        if result.form == "scalar":
            scalars.append(len(outputs))
        outputs.append(p.Ref(source))
    return tuple(outputs), tuple(scalars)


def _mutated_inputs(func: OpOverload, args: tuple[p.Argument, ...], kwargs: dict[str, p.Argument]) -> tuple[int, ...]:
    schema = read_schema(func)
    mutated: set[int] = set()
    for place in schema.writes:
        mutated.update(p.references(schema.argument(place, args, kwargs)))
    return tuple(sorted(mutated))


def rebuild_call(
    structure: StructureKey, tensors: Sequence[Any], scalars: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that `flatten_call` took apart, with other tensors and numbers, or what stands for them."""
    next_tensor, next_scalar = iter(tensors), iter(scalars)

    def build(item: Any) -> Any:
        if type(item) is tuple:
            if item and item[0] is complex:
                return complex(item[1])
            return [build(element) for element in item]
        if type(item) is bytes:
            return next(next_tensor if item == _TENSOR else next_scalar)
        return item

    return tuple(build(item) for item in structure[0]), {name: build(item) for name, item in structure[1]}
