"""Probes: checks that a private hook of torch is there and means what this package takes it to mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature

import torch

SEEN = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")
"""The torch versions on which all probes of this room were seen to succeed."""


@dataclass(frozen=True)
class Probe:
    """A check of one private hook.

    Attributes:
        hook: The dotted path of the hook in torch.
        purpose: What this package does with it.
        check: Raises where the hook is gone, or no longer means what it did.
        seen: The torch versions it was seen to work on.
    """

    hook: str
    purpose: str
    check: Callable[[], object]
    seen: tuple[str, ...] = SEEN

    def run(self) -> MissingHook | None:
        """Return what is wrong with the hook in the running torch, or None."""
        try:
            self.check()
        except Exception as error:  # noqa: BLE001  # a hook of another version may fail in any way
            return MissingHook(self.hook, self.purpose, self.seen, f"{type(error).__name__}: {error}")
        return None


@dataclass(frozen=True)
class MissingHook:
    """A private hook that the running torch lacks, or has with another meaning."""

    hook: str
    purpose: str
    seen: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return (
            f"torch {torch.__version__} lacks {self.hook}, which {self.purpose} "
            f"(seen to work on torch {', '.join(self.seen)}): {self.reason}"
        )


def takes(function: Callable[..., object], *names: str) -> None:
    """Raise TypeError unless `function` takes each of the named arguments."""
    parameters = signature(function).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    missing = sorted(set(names) - {parameter.name for parameter in parameters})
    if missing:
        raise TypeError(f"it takes no argument {', '.join(missing)}")


def require(holds: bool, what: str) -> None:
    """Raise AssertionError, also in optimised Python, unless a claim about a hook holds."""
    if not holds:
        raise AssertionError(f"not so: {what}")
