"""Dynamo and its logs: which compilation is under way, where its dumps and its structured trace go, what it counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.utils import counters, get_debug_dir
from torch._guards import CompileContext, CompileId
from torch._logging import _internal as torch_logging
from torch._logging import trace_structured

from dynamo_genie.torch_internals.probe import Probe, require, takes

__all__ = ["CompileId"]


def current_compile_id() -> CompileId | None:
    """Return the number of the compilation under way, whose text is "frame/compilation"."""
    return CompileContext.current_compile_id()


def debug_folder() -> str:
    """Return the folder of this process in torch's debug tree, where `TORCH_COMPILE_DEBUG=1` puts dumps."""
    return get_debug_dir()


def structured_trace_is_on() -> bool:
    """Say whether torch writes a structured trace (`TORCH_TRACE`): its logger has handlers then, and else none."""
    return bool(torch_logging.trace_log.handlers)


def trace_artifact(name: str, text: Callable[[], str], compile_id: CompileId | None) -> None:
    """Write an artifact of JSON into the structured trace, if there is one, under a compilation, also after its end.

    Relies on `trace_structured` taking the compilation's number, and not missing it (`expect_trace_id`).
    """
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": name, "encoding": "json"},
        payload_fn=text,
        compile_id=compile_id,
        expect_trace_id=False,
    )


def graph_breaks() -> dict[str, int]:
    """Return the breaks of graphs since the counters were cleared, by reason."""
    return dict(counters["graph_break"])


def graphs_compiled() -> int:
    """Return the graphs that Dynamo compiled since the counters were cleared."""
    return int(counters["stats"]["unique_graphs"])


def clear_counters() -> None:
    """Count graphs and graph breaks from zero."""
    counters.clear()


def _compile_something() -> list[str]:
    seen: list[str] = []

    def backend(gm: Any, example_inputs: Any) -> Any:
        seen.append(str(current_compile_id()))
        return gm.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    return seen


def _check_compile_id() -> None:
    seen = _compile_something()
    require(len(seen) == 1 and "/" in seen[0], f"a compilation has a number such as 0/0, not {seen}")
    require(current_compile_id() is None, "no compilation is under way outside of one")


def _check_counters() -> None:
    before = graphs_compiled()
    _compile_something()
    require(graphs_compiled() == before + 1, "a compiled graph is counted")
    require(all(isinstance(count, int) for count in graph_breaks().values()), "graph breaks are counted by reason")


PROBES = (
    Probe("torch._guards.CompileContext", "names reports after the compilation under way", _check_compile_id),
    Probe(
        "torch._guards.CompileId",
        "names reports after the compilation under way",
        lambda: str(CompileId(frame_id=0, frame_compile_id=0)),
    ),
    Probe("torch._dynamo.utils.get_debug_dir", "puts dumps into torch's debug tree", lambda: takes(get_debug_dir)),
    Probe("torch._dynamo.utils.counters", "shows in benchmarks that a model was compiled as a whole", _check_counters),
    Probe("torch._logging._internal", "leaves reports unwritten while nothing is traced", structured_trace_is_on),
    Probe(
        "torch._logging.trace_structured",
        "puts reports into torch's structured trace",
        lambda: takes(trace_structured, "metadata_fn", "payload_fn", "compile_id", "expect_trace_id"),
    ),
)
