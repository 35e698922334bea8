"""How long a stage may take: its own limit, or what is left of the budget of all of them. Knows no clock."""

from __future__ import annotations

from dataclasses import dataclass

WORTH_STARTING_S = 5.0
"""With less time than this a stage would end before it has imported torch."""


@dataclass(frozen=True)
class Allowance:
    """The seconds that a stage may take, and what it will have used up then."""

    seconds: float
    used_up: str


def allowance(limit_s: float, budget_s: float, spent_s: float) -> Allowance | None:
    """Return what a stage may take; None where the budget leaves nothing worth starting it for.

    Args:
        limit_s: The stage's own.
        budget_s: For all stages together.
        spent_s: What the stages before it took.
    """
    left_s = budget_s - spent_s
    if limit_s <= left_s:
        return Allowance(limit_s, f"its limit of {limit_s:g} s")
    if left_s < WORTH_STARTING_S:
        return None
    return Allowance(left_s, f"the budget of {budget_s:g} s")
