"""Walks over nested arguments of operators: lists, tuples and dicts of tensors and numbers."""

from __future__ import annotations

from torch.utils._pytree import tree_leaves, tree_map_only

from dynamo_genie.torch_internals.probe import Probe, require

__all__ = ["tree_leaves", "tree_map_only"]


def _check_leaves() -> None:
    require(tree_leaves(([1, (2,)], {"a": None})) == [1, 2, None], "lists, tuples and dicts are no leaves, None is one")


def _check_map() -> None:
    mapped = tree_map_only(int, lambda number: number + 1, ([1, "x"], {"a": 2}))
    require(mapped == ([2, "x"], {"a": 3}), "values of one type alone are mapped")


PROBES = (
    Probe("torch.utils._pytree.tree_leaves", "finds the tensors among arguments", _check_leaves),
    Probe("torch.utils._pytree.tree_map_only", "exchanges the tensors among arguments", _check_map),
)
