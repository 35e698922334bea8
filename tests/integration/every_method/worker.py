"""Runs cases one after another and says before each which it is: a crash is then known by its name.

python -m tests.integration.every_method.worker genie no_grad 0
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any

import torch

from dynamo_genie.errors import DaemonUnavailable, GenieError, ProtocolError
from tests.integration.every_method.cases import Case, cases
from tests.integration.every_method.steps import Make, Seen, Watched, compiled, disagreement, eager, use

REFUSED = "refused"
DIFFERS = "differs"
MARK = "case>"


def main(backend: str, mode: str, first: int, only: frozenset[str] = frozenset()) -> None:
    """Run the cases from a number on, those of some members where any are named.

    A case is right where it is as in eager, or as under `aot_eager`: AOTAutograd has its own way with a gradient's
    strides, with zeros in place of None, and with what it keeps for the backward. Or as in eager where PyTorch knows
    that somebody watches: it then has other formulas for a few gradients and for `svdvals`.
    """
    warnings.simplefilter("ignore")
    make, reference = compiled(_resolve(backend)), compiled("aot_eager")
    for number, case in enumerate(cases()):
        if number < first or (only and case.member not in only):
            continue
        name = f"{case.member} ({case.label})"
        _say(number=number, starts=name)
        expected, actual = use(case, mode, eager), use(case, mode, make)
        found = disagreement(actual, expected)
        if found is not None and _as_elsewhere(actual, case, mode, reference):
            found = None
        if found is None:
            verdict = None
        else:
            verdict = REFUSED if _refused(actual.error) else DIFFERS
            _settle(make)
        _say(number=number, ends=name, verdict=verdict, found=found, useless=not expected.steps.get("called"))


def _as_elsewhere(actual: Seen, case: Case, mode: str, reference: Make) -> bool:
    """Say whether a case shows what PyTorch shows on another way of its own."""
    if disagreement(actual, use(case, mode, reference)) is None:
        return True
    with Watched():
        watched = use(case, mode, eager)
    return disagreement(actual, watched) is None


def _resolve(backend: str) -> Any:
    """A backend that torch knows by name, or one of ours for tests, as `module:function`."""
    module, _, function = backend.partition(":")
    return getattr(importlib.import_module(module), function) if function else backend


def _refused(error: Exception | None) -> bool:
    """Whether this is an error of ours that names what it refuses, and not a daemon that went away."""
    return isinstance(error, GenieError) and not isinstance(error, DaemonUnavailable | ProtocolError)


def _settle(make: Any) -> None:
    """Read something, so that an error which is still on its way is not taken for the next case's."""
    for _ in range(3):
        try:
            make(torch.ones(2)).tolist()
        except Exception:  # noqa: BLE001, S112 - the errors of the case before
            continue
        return


def _say(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), frozenset(sys.argv[4:]))
