"""A graph as text that people read and compare: one line a node, with what is known of its value beside it.

The text is Python in form, so that editors colour it, and holds no running numbers, so that two of them diff::

    attn = portable_attention(q, k, v, 0.0, True)  # (f32[1, 12, 1, 64], f32[1, 12, 1]) | activation decode | ...
"""

from __future__ import annotations

import re
from enum import Enum
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from dynamo_genie.passes.graphs.semantics import Facts, facts_of
from dynamo_genie.torch_internals.operators import OperatorBase

_SHORT_DTYPES = MappingProxyType({"float": "f", "bfloat": "bf", "complex": "c", "uint": "u", "int": "i"})


def annotated_text(gm: GraphModule, title: str) -> str:
    """Return `gm` as text under a heading."""
    lines = [f"# {title}: {len(gm.graph.nodes)} nodes", ""]
    lines += [_line(node) for node in gm.graph.nodes]
    return "\n".join(lines) + "\n"


def annotated_records(gm: GraphModule) -> list[dict[str, Any]]:
    """Return `gm` as plain data, one record a node, in graph order."""
    return [_record(node) for node in gm.graph.nodes]


def operator_name(node: Node) -> str:
    """Return how a node's operator is called in text: `aten.addmm.default`, `placeholder`."""
    if node.op != "call_function":
        return node.op
    target: Any = node.target
    return str(target) if isinstance(target, OperatorBase) else str(getattr(target, "__name__", target))


def value_text(value: object) -> str:
    """Return the type of a value in short: `f32[1, s0, 768]`."""
    if isinstance(value, torch.Tensor):
        return f"{_short_dtype(value.dtype)}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(value_text, value))})"
    return "" if value is None else str(value)


def facts_text(facts: Facts) -> str:
    """Return what is known, in a fixed order: words, then sizes, then why."""
    words = [str(fact.value) for fact in (facts.role, facts.phase, facts.residency) if fact is not None]
    named = {"group": facts.group, "priority": facts.priority, "confidence": facts.confidence}
    counted = {"bytes": facts.nbytes, "flops": facts.flops}
    parts = [
        " ".join(words),
        " ".join(f"{name}={value}" for name, value in named.items() if value is not None),
        " ".join(f"{value:,} {name}" for name, value in counted.items() if value is not None),
        "; ".join(facts.evidence),
    ]
    return " | ".join(part for part in parts if part)


def _line(node: Node) -> str:
    comment = " | ".join(part for part in (value_text(node.meta.get("val")), facts_text(facts_of(node))) if part)
    return f"{_statement(node)}  # {' '.join(comment.split())}" if comment else _statement(node)


def _statement(node: Node) -> str:
    if node.op == "output":
        return f"output({_argument(node.args[0])})"
    if node.op in ("placeholder", "get_attr"):
        return f"{node.name} = {node.op}({str(node.target)!r})"
    arguments = [_argument(value) for value in node.args]
    arguments += [f"{name}={_argument(value)}" for name, value in node.kwargs.items()]
    return f"{node.name} = {operator_name(node)}({', '.join(arguments)})"


def _argument(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument, value))}]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if value is None or isinstance(value, (Node, str, int, float)):
        return repr(value)
    return repr(value) if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)) else repr(str(value))


def _record(node: Node) -> dict[str, Any]:
    facts = facts_of(node)
    known = {name: _plain(value) for name, value in vars(facts).items() if value not in (None, ())}
    arguments = _plain(map_arg((node.args, dict(node.kwargs)), lambda n: f"%{n.name}"))
    record = {"name": node.name, "op": node.op, "operator": operator_name(node), "args": arguments}
    return {**record, "value": value_text(node.meta.get("val")), "module": module_of(node), "facts": known}


def module_of(node: Node) -> str:
    """Return the path of the module whose code made a value, `transformer.h.0.attn`; "" where none is known."""
    stack = node.meta.get("nn_module_stack")
    if not isinstance(stack, dict) or not stack:
        return ""
    path = str(next(reversed(stack.values()))[0])
    return re.sub(r"^[LG]\['[^']*'\]\.?", "", path)  # the variable that held the model when it was compiled


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _short_dtype(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    for long, short in _SHORT_DTYPES.items():
        if name.startswith(long) and name[len(long) :].isdecimal():
            return short + name[len(long) :]
    return name
