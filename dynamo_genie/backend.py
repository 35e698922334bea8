"""The backend that `torch.compile(model, backend="genie")` finds through the entry point."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.compiler import compile_graph
from dynamo_genie.errors import OptionError
from dynamo_genie.options import resolve_options
from dynamo_genie.tensor.remote_tensor import takes_remote_tensors


@takes_remote_tensors
def genie(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, object] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile a Dynamo graph to run in a daemon.

    Args:
        gm: The graph that Dynamo captured.
        example_inputs: Its inputs, as fake tensors.
        options: `torch.compile`'s options; see `dynamo_genie.options.Options`.
        mode: Not used; `torch.compile` passes its own `mode` here.

    Raises:
        OptionError: An option is unknown or cannot be used.
        UnsupportedOperator: The graph holds an operator that no daemon runs.
    """
    if mode is not None:
        raise OptionError(
            f"backend 'genie' has no torch.compile mode {mode!r}; its own modes are an option: options={{'mode': ...}}"
        )
    return compile_graph(gm, example_inputs, resolve_options(options, os.environ))
