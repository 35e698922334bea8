"""Mode `local`: the graphs that a daemon would run, run in this process: the floor under all modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.lowering.numbers import numbers_of


class LocalGraph:
    """Calls a graph in this process, operator by operator."""

    _boxed_call = True

    def __init__(self, gm: GraphModule) -> None:
        self._run: Callable[..., Any] = gm.forward
        self._numbers = numbers_of(gm)

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties `args`, so that arguments can die as soon as they were read."""
        mine = list(args)
        args.clear()
        results = self._run(*mine)
        return [value.item() if i in self._numbers else value for i, value in enumerate(results)]
