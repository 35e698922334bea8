"""Tables of methods of C++ objects: found, read and replaced by others, where Python's stand-ins do not reach.

Where methods stand in a table is read from the headers that come with PyTorch. For Linux's ABI of C++ (Itanium's).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

BEFORE = 2
"""Words before the methods of a table: where the object begins, and what its class is."""

_FOLDER = Path(torch.__file__).parent


@cache
def library(name: str) -> ctypes.CDLL:
    """Return one of PyTorch's libraries, which are loaded already."""
    return ctypes.CDLL(str(_FOLDER / f"lib/lib{name}.so"))


def methods(header: str, kind: str) -> list[str]:
    """Return the names of what a class adds to its table, in order; a destructor stands there twice.

    Raises:
        OSError, ValueError: There is no such header, or no such class in it.
    """
    text = (_FOLDER / "include" / header).read_text(encoding="utf-8")
    start = text.index(kind)
    lines = text[start : text.index("\n};", start)].splitlines()
    body = "\n".join(line for line in lines if not line.lstrip().startswith("//"))
    heads = (declared.partition("(")[0] for declared in body.split("virtual ")[1:])
    names = [head.split()[-1].lstrip("*&") for head in heads]
    return [each for name in names for each in ([name, name] if name.startswith("~") else [name])]


def table(address: int, count: int) -> list[int]:
    """Return the table of an object: what stands before its methods, and they."""
    first = ctypes.c_void_p.from_address(address).value
    assert first is not None
    return list((ctypes.c_size_t * (BEFORE + count)).from_address(first - BEFORE * ctypes.sizeof(ctypes.c_size_t)))


def method(address: int, names: list[str], name: str) -> int:
    """Return where the method of an object is, by its name."""
    return table(address, len(names))[BEFORE + names.index(name)]


def replace(address: int, names: list[str], others: Mapping[str, object]) -> None:
    """Let methods of an object be others from now on: those of a table, or functions that `ctypes` has made."""
    words = (ctypes.c_void_p * (BEFORE + len(names)))(*table(address, len(names)))
    for name, other in others.items():
        words[BEFORE + names.index(name)] = other if isinstance(other, int) else _address(other)
    for kept in (words, *others.values()):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))  # C++ uses them for as long as there is a process
    ctypes.c_void_p.from_address(address).value = ctypes.addressof(words) + BEFORE * ctypes.sizeof(ctypes.c_void_p)


def _address(function: object) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
