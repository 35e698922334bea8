"""Indexing a tensor subclass in Python, without the class becoming a sequence.

`torch.Tensor` is a mapping to CPython: it has a subscript, and no items. A Python class that defines `__getitem__` gets
both, and PyTorch then takes its instances for nested lists: `torch.tensor([scalar, scalar])` asks for their lengths.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dynamo_genie.torch_internals.probe import Probe, require

ClassT = TypeVar("ClassT", bound=type)

_AS_SEQUENCE = 104
"""Where a type object points to its methods as a sequence: the thirteenth word, in CPython with reference counts."""

_ITEM = 24
"""Where those have the slot for an item: the fourth word."""


def indexed_by(subscript: Callable[[Any, Any], Any]) -> Callable[[ClassT], ClassT]:
    """Return a decorator that has a tensor class answer `tensor[index]` with `subscript(tensor, index)`.

    Relies on the layout of CPython's type objects, which is looked at before anything is changed; where it is another,
    the class stays as it was.
    """

    def decorate(cls: ClassT) -> ClassT:
        if not _layout_is_known():
            return cls
        cls.__getitem__ = subscript  # type: ignore[index]
        _item_slot(cls).value = None
        return cls

    return decorate


def _item_slot(cls: type) -> ctypes.c_void_p:
    methods = ctypes.c_void_p.from_address(id(cls) + _AS_SEQUENCE).value
    assert methods is not None
    return ctypes.c_void_p.from_address(methods + _ITEM)


def _layout_is_known() -> bool:
    """Say whether the words at those places are what they should be: those of classes with and without items."""
    with_items = [type("_Items", (base,), {"__getitem__": lambda self, index: None}) for base in (object, torch.Tensor)]
    words = ctypes.c_void_p.from_address
    if any(not words(id(cls) + _AS_SEQUENCE).value for cls in with_items):
        return False
    first, second = (_item_slot(cls).value for cls in with_items)
    return first is not None and first == second and _item_slot(type("_None", (torch.Tensor,), {})).value is None


def _check_subscript() -> None:
    cls = indexed_by(lambda tensor, index: ("subscript", index))(type("_Subscripted", (torch.Tensor,), {}))
    require("__getitem__" in vars(cls), "type objects are laid out as expected")
    tensor: Any = torch.ones(2).as_subclass(cls)
    require(tensor[1, 2] == ("subscript", (1, 2)), "the class answers")
    is_sequence = ctypes.pythonapi.PySequence_Check
    is_sequence.argtypes = [ctypes.py_object]
    require(not is_sequence(tensor) and not is_sequence(torch.ones(2)), "no tensor is a sequence to CPython")


PROBES = (Probe("torch.Tensor.__getitem__", "answers for elements of results that are known", _check_subscript),)
