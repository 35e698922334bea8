"""Code that Dynamo must not trace: the frame evaluator that compiles a program's functions sees every Python frame.

Where a graph breaks, Dynamo looks at each frame that the program's own code then enters: ours, called from an operator
on a remote tensor, would be compiled as if it were the program's, broken in turn, and compiled again until a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any, TypeVar

import torch
from torch._dynamo import eval_frame
from torch._dynamo.convert_frame import input_codes
from torch._dynamo.eval_frame import skip_code

from dynamo_genie.torch_internals.probe import Probe, require

F = TypeVar("F", bound=Callable[..., Any])
ClassT = TypeVar("ClassT", bound=type)

_DISABLED = eval_frame.__file__


def opaque(function: F) -> F:
    """Return `function` so that Dynamo traces neither it nor what it calls, and breaks the graph where it is called."""
    disabled: F = torch.compiler.disable(function, reason="this is dynamo_genie's own code")
    return disabled


def caller_past_opaque(frame: FrameType | None) -> FrameType | None:
    """Return the first frame, from `frame` outwards, that is not of what makes a function opaque; by its file."""
    while frame is not None and frame.f_code.co_filename == _DISABLED:
        frame = frame.f_back
    return frame


def unseen(function: F) -> F:
    """Have Dynamo leave the frames of `function` alone, though not those of what it calls.

    Costs nothing at a call, where what is `opaque` costs a microsecond. For functions that call C functions only,
    others that are unseen, or what is opaque. Relies on `eval_frame.skip_code`.
    """
    skip_code(function.__code__)
    function.genie_unseen = True  # type: ignore[attr-defined]
    return function


def opaque_class(cls: ClassT) -> ClassT:
    """Make what a class defines opaque: its methods, properties, class and static methods; not its constructor.

    Code in the class body runs wherever PyTorch calls it, so there is no method that could be left out.
    """
    for name, member in list(vars(cls).items()):
        hidden = _hidden(member)
        if hidden is not member and name != "__new__":
            setattr(cls, name, hidden)
    return cls


def _hidden(member: Any) -> Any:
    if isinstance(member, FunctionType):
        return member if hasattr(member, "genie_unseen") else opaque(member)
    if isinstance(member, classmethod | staticmethod):
        return type(member)(opaque(member.__func__))
    if isinstance(member, property):
        setter = opaque(member.fset) if member.fset is not None else None
        return property(opaque(member.fget), setter, None, member.__doc__) if member.fget is not None else member
    return member


def frames_seen() -> list[tuple[str, str]]:
    """Return the file and the name of each function whose frames Dynamo looked at since it was last reset.

    Relies on `convert_frame.input_codes`, into which Dynamo's frame evaluator puts each code object before anything
    else, also those that it then leaves alone.
    """
    codes = (reference() for reference in input_codes.seen)
    return [(code.co_filename, code.co_name) for code in codes if code is not None]


@opaque_class
class _Hidden:
    @property
    def ready(self) -> bool:
        return True

    @unseen
    def same(self, value: torch.Tensor) -> torch.Tensor:
        return value

    @staticmethod
    def twice(value: torch.Tensor) -> torch.Tensor:
        return _twice(value)


def _twice(value: torch.Tensor) -> torch.Tensor:
    return value + value


def _check_opaque() -> None:
    hidden = _Hidden()

    def program(value: torch.Tensor) -> torch.Tensor:
        return hidden.twice(hidden.same(value + 1)) if hidden.ready else value

    result = torch.compile(program, backend="eager")(torch.ones(2))
    names = {name for _, name in frames_seen()}
    require(result.tolist() == [4.0, 4.0], "what is disabled runs all the same")
    require("program" in names, "a function that is compiled is seen")
    require(not names & {"twice", "_twice", "ready", "same"}, "neither what is disabled nor what it calls is seen")


PROBES = (
    Probe(
        "torch._dynamo.eval_frame",
        "tells who calls what is hidden from Dynamo",
        lambda: require("eval_frame" in _DISABLED, "functions that Dynamo leaves alone are called from that file"),
    ),
    Probe("torch._dynamo.eval_frame.skip_code", "shows that nothing of ours is compiled", _check_opaque, ("2.13.0",)),
    Probe(
        "torch._dynamo.convert_frame.input_codes", "shows that nothing of ours is compiled", _check_opaque, ("2.13.0",)
    ),
)
