"""What torch's tests expect operators to refuse is refused with the class of eager, by the call where it can know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map

import dynamo_genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.options import resolve_options
from dynamo_genie.runtime.wire.limits import MAX_RANK
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.integration.compare import read

_SHARED = "elements of out= share memory, and the copy into it fails"
_CONVERTED = "out= of another type is converted to"
_COPIED = "the result is copied into out= when it is whole, so that out= may be an argument"

LATE = {
    "as_strided_scatter": "fake tensors do not look at the size of the memory",
    "bernoulli": _SHARED,
    "bucketize": "fake tensors do not look at the boundaries",
    "cat": _SHARED,
    "complex": "fake tensors take two precisions",
    "gather": "the index is in the daemon",
    "index_add": "fake tensors do not compare the shapes",
    "masked_scatter": "fake tensors take any mask",
    "masked_select": _SHARED,
    "scatter": "the index is in the daemon",
    "scatter_add": "the index is in the daemon",
    "take": _SHARED,
}
"""Operators whose error comes when the result is read, and why the call cannot know."""

ACCEPTED = {
    "amax": _CONVERTED,
    "amin": _CONVERTED,
    "aminmax": _CONVERTED,
    "arange": "steps are counted before they are converted to the type of out=",
    "cat": _COPIED,
    "complex": _CONVERTED,
    "gather": f"{_CONVERTED}; {_COPIED}",
    "index_select": "out= of another shape is resized, and its elements share no memory then",
    "kthvalue": _COPIED,
    "masked_select": _COPIED,
    "multinomial": _CONVERTED,
    "take": _COPIED,
}
"""Operators that do what eager refuses, and what that is."""


def _refused() -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception]]]:
    for op in op_db:
        if op.error_inputs_func is None:
            continue
        for case in op.error_inputs("cpu"):
            sample = case.sample_input
            args, kwargs = (sample.input, *sample.args), sample.kwargs
            try:
                op(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - which class is what we want to learn
                yield op.name, op, args, kwargs, type(error)


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.is_cpu and value.layout == torch.strided and value.dim() <= MAX_RANK


@pytest.mark.slow
@pytest.mark.sweep
def test_operators_refuse_what_eager_refuses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    session = CONNECTIONS.get(resolve_options(None, {})).session

    def remote(value: Any) -> Any:
        if not _is_plain(value):
            return value
        memory = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())  # type: ignore[call-overload]
        whole = RemoteTensor(memory.shape, memory.stride(), memory.dtype, session.put(memory))
        return whole.as_strided(value.shape, value.stride(), value.storage_offset())

    wrong, late, accepted, by_the_call = [], set(), set(), 0
    for name, op, args, kwargs, expected in _refused():
        if not any(map(_is_plain, tree_leaves((args, kwargs)))):
            continue
        remote_args, remote_kwargs = tree_map(remote, (args, kwargs))
        returned = False
        try:
            result = op(*remote_args, **remote_kwargs)
            returned = True
            read(result)
            accepted.add(name)
        except expected:
            by_the_call += not returned
            late |= {name} if returned else set()
        except Exception as error:  # noqa: BLE001 - it is reported below
            wrong.append(f"{name}: {error!r:.200}, not {expected.__name__}")
    dynamo_genie.synchronize()
    assert not wrong, "\n".join(wrong)
    assert not late ^ set(LATE)
    assert not accepted ^ set(ACCEPTED)
    assert by_the_call > 450
