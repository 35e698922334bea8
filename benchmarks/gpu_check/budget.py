"""How long a stage may take: its limit, more where others leave time, less where the budget ends. Knows no clock."""

from __future__ import annotations

from dataclasses import dataclass

WORTH_STARTING_S = 5.0
"""With less time than this a stage would end before it has imported torch."""

MOST_TIMES = 2.0
"""So many limits are the most that a stage gets: one that hangs must not use up what was saved for all."""


@dataclass(frozen=True)
class Allowance:
    """The seconds that a stage may take, and what it will have used up then."""

    seconds: float
    used_up: str


def allowance(limit_s: float, budget_s: float, spent_s: float, later_s: float) -> Allowance | None:
    """Return what a stage may take; None where the budget leaves nothing worth starting it for.

    A stage gets what earlier ones left of their limits, and what the budget has beyond all limits.

    Args:
        limit_s: The stage's own.
        budget_s: For all stages together.
        spent_s: What the stages before it took.
        later_s: The limits of those after it, which they keep.
    """
    left_s = budget_s - spent_s
    most_s = min(max(limit_s, left_s - later_s), MOST_TIMES * limit_s)
    if most_s <= left_s:
        return Allowance(most_s, f"its {'time' if most_s > limit_s else 'limit'} of {most_s:.0f} s")
    if left_s < WORTH_STARTING_S:
        return None
    return Allowance(left_s, f"the budget of {budget_s:g} s")
