"""Spending a budget of bytes where it lowers the loss most: a pure function.

One option is to be chosen in every group; sizes and losses add up (a multiple-choice knapsack). Of
each group only the options on the lower convex hull of (size, loss) can be best at some price of a
byte. Walking all hulls together, steepest step first, passes through every plan that is best at a
price (Lagrange); between two of those it goes on with the steps that still fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Option:
    size_bytes: float
    loss: float
    choice: Any


def allocate(groups: Sequence[Sequence[Option]], budget_bytes: float) -> list[Option]:
    """One option of each group, together at most `budget_bytes`.

    A larger budget never gives a larger loss. No choice of the budget is better by more than the
    first step that did not fit would gain. Raises `ValueError` if the smallest options do not fit.
    """
    hulls = [_hull(group) for group in groups]
    chosen = [hull[0] for hull in hulls]
    left = budget_bytes - sum(option.size_bytes for option in chosen)
    if left < 0:
        raise ValueError(f"the smallest options take {-left:.0f} bytes more than the budget")
    steps = [
        (_gain_per_byte(before, after), index, before, after)
        for index, hull in enumerate(hulls)
        for before, after in pairwise(hull)
    ]
    steps.sort(key=lambda step: -step[0])  # stable: a hull's own steps stay in order
    for _, index, before, after in steps:
        size = after.size_bytes - before.size_bytes
        if chosen[index] is before and size <= left:  # else an earlier step of it was passed over
            chosen[index] = after
            left -= size
    return chosen


def _hull(group: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull, by size; the first is the smallest."""
    hull: list[Option] = []
    for option in sorted(group, key=lambda option: (option.size_bytes, option.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain_per_byte(hull[-2], hull[-1]) <= _gain_per_byte(
            hull[-1], option
        ):
            hull.pop()
        hull.append(option)
    return hull


def _gain_per_byte(before: Option, after: Option) -> float:
    return (before.loss - after.loss) / (after.size_bytes - before.size_bytes)
