"""The labelled table: what the passes find in models of many families, against what their cache objects say.

The labels are the tensors that the cache object holds before and after a call, looked up among the tensors that each
graph really took and returned. `pytest tests/passes -k labelled` prints the table; with `-m ""`, all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamo_genie.passes.graphs.semantics import Phase
from tests.passes.families import Family, cache_tensors, families, first_call, is_quick, make, make_cache, next_call
from tests.passes.understood import Understood, place_of, understand

Places = set[tuple[object, ...]]


@dataclass(frozen=True)
class Row:
    """One call: cache tensors that the cache object had, that were found, that were made up; phases."""

    family: str
    cache: str
    step: str
    labelled: int
    found: int
    invented: int
    expected: str
    phase: str

    @property
    def right(self) -> bool:
        return self.found == self.labelled and not self.invented and self.phase == self.expected


def cases() -> Iterable[Any]:
    for family in families():
        for cache in family.caches or ("-",):
            marks = () if is_quick(family, cache) else (pytest.mark.slow,)
            yield pytest.param(family, cache, id=f"{family.name}-{cache}", marks=marks)


@pytest.mark.parametrize(("family", "cache_kind"), list(cases()))
def test_labelled(family: Family, cache_kind: str, record_property: Callable[[str, object], None]) -> None:
    model = make(family.name)
    model.forward, calls = understand(model.forward)
    rows = []
    with torch.no_grad():
        for step, labels, phase in _steps(family, cache_kind, model):
            rows.append(_row(family.name, cache_kind, step, calls, labels, phase))
            record_property("labelled", vars(rows[-1]))
            calls.clear()
    assert all(row.right for row in rows), rows


def _steps(family: Family, cache_kind: str, model: Any) -> Iterable[tuple[str, tuple[Places, Places], str]]:
    """Make the calls of a family; after each, yield its name, its labels before and after, and its phase."""
    inputs = first_call(family)
    if not family.caches:
        model(**inputs)
        yield family.kind, (set(), set()), family.first.value
        return
    cache = make_cache(family, cache_kind, model)
    results = model(**inputs, past_key_values=cache, use_cache=True)
    yield "prefill", (set(), _places(cache_tensors(cache))), _first_phase(family)
    more = next_call(family, results, inputs["input_ids"].shape[1] if "input_ids" in inputs else 0)
    held = cache_tensors(cache)  # kept alive, so that no other tensor comes to lie where one of them was
    before = _places(held)
    model(**more, past_key_values=cache, use_cache=True)
    yield "decode", (before, _places(cache_tensors(cache))), Phase.DECODE.value


def _first_phase(family: Family) -> str:
    """Models that look for image tokens in the prompt read a number on the way, and so compile as several graphs."""
    return "vision, prefill" if family.kind == "sees and speaks" else family.first.value


def _row(
    family: str, cache: str, step: str, calls: Sequence[Understood], labels: tuple[Places, Places], phase: str
) -> Row:
    before, after = labels
    found: Places = set()
    wrong = 0
    for call in calls:
        read, kept = _found_in(call)
        wrong += len(read - before) + len(kept - after)
        found |= {("before", *place) for place in read & before} | {("after", *place) for place in kept & after}
    assert calls, "nothing was compiled"
    phases = [call.analysis.phase.value for call in calls if call.analysis.phase is not Phase.OTHER]
    got = ", ".join(dict.fromkeys(phases)) or Phase.OTHER.value
    return Row(family, cache, step, len(before) + len(after), len(found), wrong, phase, got)


def _found_in(call: Understood) -> tuple[Places, Places]:
    """Return where the caches that were found lay when the call began, and where they lay when it ended."""
    inputs = dict(zip(call.gm.graph.find_nodes(op="placeholder"), call.inputs, strict=True))
    values = {**inputs, **dict(zip(call.gm.graph.output_node().args[0], call.outputs, strict=True))}
    read = _places(inputs[cache.before] for cache in call.analysis.caches if cache.before is not None)
    kept = _places(values.get(cache.after, inputs.get(cache.before)) for cache in call.analysis.caches)
    return read, kept


def _places(tensors: Iterable[Tensor]) -> Places:
    return {place_of(tensor) for tensor in tensors}
