"""Shapes of eager results: the quick way says what fake tensors say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dynamo_genie.tensor.operator_lowering import flatten_call
from dynamo_genie.tensor.operator_metadata import QUICK_OPERATORS, infer_results, metadata_of

aten = torch.ops.aten
ids = torch.arange(12).view(2, 6)
rows = torch.randn(3, 4)
image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
view = torch.randn(6, 4).t()[1:, 2:]

CALLS: dict[str, Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "slice": lambda: (aten.slice.Tensor, (ids, 1, 2, 5), {}),
    "slice of a view": lambda: (aten.slice.Tensor, (view, 0, 1, 3), {}),
    "select": lambda: (aten.select.int, (view, 1, -1), {}),
    "unsqueeze": lambda: (aten.unsqueeze.default, (view, 1), {}),
    "squeeze": lambda: (aten.squeeze.dim, (ids[:1], 0), {}),
    "expand": lambda: (aten.expand.default, (ids[:1], [3, 6]), {}),
    "permute": lambda: (aten.permute.default, (image, [3, 1, 0, 2]), {}),
    "transpose": lambda: (aten.transpose.int, (image, 1, 2), {}),
    "t": lambda: (aten.t.default, (view,), {}),
    "view": lambda: (aten.view.default, (rows, [2, -1]), {}),
    "clone": lambda: (aten.clone.default, (view,), {}),
    "clone of channels last": lambda: (aten.clone.default, (image,), {}),
    "cat": lambda: (aten.cat.default, ([ids, ids[:, :1]], -1), {}),
    "cat of channels last": lambda: (aten.cat.default, ([image, image], 1), {}),
    "cat of views": lambda: (aten.cat.default, ([view, view], 0), {}),
    "cat that promotes": lambda: (aten.cat.default, ([ids, rows[:2, :2]], 1), {}),
    "isin": lambda: (aten.isin.Tensor_Tensor, (ids, ids[0]), {}),
    "argmax": lambda: (aten.argmax.default, (rows, -1), {}),
    "to copy": lambda: (aten._to_copy.default, (image,), {"dtype": torch.float64}),
    "add broadcast": lambda: (aten.add.Tensor, (rows, rows[0]), {}),
    "add permuted": lambda: (aten.add.Tensor, (view, view), {}),
    "mul that promotes": lambda: (aten.mul.Tensor, (ids, torch.tensor(2.5)), {}),
    "div of integers": lambda: (aten.div.Tensor, (ids, ids), {}),
    "mul by a float": lambda: (aten.mul.Scalar, (ids, 2.5), {}),
    "rsub": lambda: (aten.rsub.Scalar, (ids, 1), {}),
    "eq": lambda: (aten.eq.Scalar, (view, 1), {}),
    "bitwise and": lambda: (aten.bitwise_and.Tensor, (ids, ids[:, :1]), {}),
    "bitwise not": lambda: (aten.bitwise_not.default, (ids,), {}),
    "any": lambda: (aten.any.dim, (rows, 1), {}),
    "max": lambda: (aten.max.default, (ids,), {}),
    "index select": lambda: (aten.index_select.default, (image, 0, torch.tensor([1, 0, 1])), {}),
    "gather": lambda: (aten.gather.default, (ids, 1, ids[:, :2] % 6), {}),
    "where": lambda: (aten.where.self, (rows > 0, rows, rows[:1]), {}),
    "masked fill": lambda: (aten.masked_fill.Scalar, (view, view > 0, -1.0), {}),
    "split": lambda: (aten.split.Tensor, (image, 2, 1), {}),
    "softmax": lambda: (aten._softmax.default, (view, -1, False), {}),
    "copy_": lambda: (aten.copy_.default, (rows, rows[:1]), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_quick_metadata_is_that_of_fake_and_of_real_tensors(name: str) -> None:
    func, args, kwargs = CALLS[name]()
    assert func in QUICK_OPERATORS
    structure, tensors, scalars = flatten_call(func, args, kwargs)
    metas = tuple(metadata_of(tensor) for tensor in tensors)
    quick = infer_results.__wrapped__(func, structure, tuple(scalars), metas, torch.float32)
    with FakeTensorMode() as mode:
        fakes = tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
        fake = func(*fakes[0], **fakes[1])
    real = func(*tree_map_only(torch.Tensor, torch.Tensor.clone if name == "copy_" else lambda t: t, args), **kwargs)
    for made in (fake, real):
        expected = tuple(metadata_of(tensor)[:3] for tensor in tree_leaves(made))
        assert name == "copy_" or tuple(found[:3] for found in quick.tensors) == expected
    if name != "copy_":
        offsets = [tensor.storage_offset() for tensor in tree_leaves(real)]
        assert [found[3] for found in quick.tensors] == offsets
