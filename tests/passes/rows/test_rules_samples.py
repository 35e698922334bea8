"""PyTorch's own samples of every operator: a rule that accepts a dimension gives in pieces what the whole gives."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dynamo_genie.passes.rows.analysis import find_rows
from dynamo_genie.passes.rows.template import Axis, CannotCut
from tests.passes.rows.in_pieces import check_in_pieces, is_same, trace

GROUPS = 16
MOST_SAMPLES = 25
MOST_ENTRIES = 100_000
FEWEST_ROWS = 4


@dataclass(frozen=True)
class Sample:
    """A call with its tensors."""

    gm: GraphModule
    tensors: Sequence[Tensor]


def is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.layout is torch.strided


def samples(op: Any, dtype: torch.dtype) -> Iterator[Sample]:
    """Yield an operator's samples that can be traced, and give the same each time."""
    if dtype not in op.dtypes:
        return
    for sample in islice(op.sample_inputs("cpu", dtype, requires_grad=False), MOST_SAMPLES):
        leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [place for place, leaf in enumerate(leaves) if is_plain(leaf)]
        tensors = [leaves[place] for place in places]

        def call(*given: Tensor, places: Any = places, leaves: Any = leaves, spec: Any = spec) -> Any:
            filled = dict(enumerate(leaves)) | dict(zip(places, given, strict=True))
            first, args, kwargs = tree_unflatten(list(filled.values()), spec)
            return op.op(first, *args, **kwargs)

        if sum(tensor.numel() for tensor in tensors) <= MOST_ENTRIES and (gm := traced(call, tensors)) is not None:
            yield Sample(gm, tensors)


def traced(call: Any, tensors: Sequence[Tensor]) -> GraphModule | None:
    """Return a call's graph; None where it depends on data, draws random numbers, or cannot be traced."""
    try:
        gm = trace(call, tensors)
        one, other = gm(*tensors), gm(*tensors)
    except Exception:  # noqa: BLE001 - samples exist that no tracer takes
        return None
    results = tree_leaves(one)
    return gm if all(map(is_plain, results)) and all(map(is_same, one, other)) else None


def seeds_of(sample: Sample, draw: random.Random) -> Iterator[tuple[int, dict[Node, Axis]]]:
    """Yield ways to cut: one input along each dimension, in blocks if its size has factors; then some of like sizes."""
    inputs = dict(zip(sample.gm.graph.find_nodes(op="placeholder"), sample.tensors, strict=True))
    for node, tensor in inputs.items():
        for dim, size in enumerate(tensor.shape):
            for rows, outer in product(range(2, size + 1), range(1, size + 1)):
                if size >= FEWEST_ROWS and size % (rows * outer) == 0:
                    yield rows, {node: Axis(dim, outer, size // rows // outer)}
    for rows in {size for tensor in sample.tensors for size in tensor.shape if size >= FEWEST_ROWS}:
        for _ in range(6):
            places = {node: [d for d, size in enumerate(t.shape) if size == rows] for node, t in inputs.items()}
            axes = {node: Axis(draw.choice(dims)) for node, dims in places.items() if dims and draw.random() < 0.8}
            if len(axes) > 1:
                yield rows, axes


def sweep(op: Any, dtype: torch.dtype, draw: random.Random) -> int:
    """Check every accepted way of an operator's samples; return how many calls were accepted."""
    accepted = 0
    for sample in samples(op, dtype):
        for rows, seeds in seeds_of(sample, draw):
            try:
                analysis = find_rows(sample.gm, seeds, rows)
            except CannotCut:
                continue
            accepted += len(analysis.found)
            if analysis.found:
                inner = draw.sample(range(1, rows), min(rows - 1, draw.randint(1, 2)))
                check_in_pieces(sample.gm, sample.tensors, analysis, [0, *sorted(inner), rows])
    return accepted


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.int64, marks=pytest.mark.sweep)])
def test_what_a_rule_accepts_is_equal_in_pieces(dtype: torch.dtype, group: int) -> None:
    draw = random.Random(group)
    assert sum(sweep(op, dtype, draw) for op in op_db[group::GROUPS]) > 100
