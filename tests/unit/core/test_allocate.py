"""Spending a budget, against every choice that there is."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiq_core.budget.allocate import Option, allocate

Groups = list[list[Option]]

options = st.builds(Option, st.integers(1, 20), st.floats(0, 100, width=16), st.none())
small_cases = st.lists(st.lists(options, min_size=1, max_size=5), min_size=1, max_size=4)


def size(chosen: list[Option]) -> float:
    return sum(option.size_bytes for option in chosen)


def loss(chosen: list[Option]) -> float:
    return sum(option.loss for option in chosen)


def smallest(groups: Groups) -> float:
    return sum(min(option.size_bytes for option in group) for group in groups)


def best(groups: Groups, budget: float) -> list[Option]:
    """By trying everything."""
    fitting = [list(chosen) for chosen in product(*groups) if size(list(chosen)) <= budget]
    return min(fitting, key=loss)


@settings(deadline=None, derandomize=True)
@given(small_cases, st.integers(0, 60))
def test_fits_and_is_no_worse_than_the_first_step_that_did_not_fit(
    groups: Groups, extra: int
) -> None:
    budget = smallest(groups) + extra
    chosen = allocate(groups, budget)
    assert all(option in group for option, group in zip(chosen, groups, strict=True))
    assert size(chosen) <= budget
    largest_step = max(
        max(option.loss for option in group) - min(option.loss for option in group)
        for group in groups
    )
    assert loss(chosen) <= loss(best(groups, budget)) + largest_step + 1e-9


@settings(deadline=None, derandomize=True)
@given(small_cases, st.floats(1e-3, 100))
def test_is_the_best_plan_wherever_that_is_best_at_a_price(groups: Groups, price: float) -> None:
    at_price = [
        min(group, key=lambda option: (option.loss + price * option.size_bytes, option.size_bytes))
        for group in groups
    ]
    budget = size(at_price)
    chosen = allocate(groups, budget)
    assert loss(chosen) == pytest.approx(loss(best(groups, budget)))
    assert loss(chosen) == pytest.approx(loss(at_price))


@settings(deadline=None, derandomize=True)
@given(small_cases, st.integers(0, 40), st.integers(0, 40))
def test_more_bytes_are_never_worse(groups: Groups, extra: int, more: int) -> None:
    budget = smallest(groups) + extra
    assert loss(allocate(groups, budget + more)) <= loss(allocate(groups, budget)) + 1e-9


def test_takes_what_gains_most_for_a_byte_and_fills_up_with_what_fits() -> None:
    groups = [
        [Option(10, 100, "a0"), Option(20, 10, "a1")],  # 9 a byte
        [Option(10, 100, "b0"), Option(40, 40, "b1")],  # 2 a byte
        [Option(10, 100, "c0"), Option(15, 95, "c1")],  # 1 a byte
    ]
    assert [option.choice for option in allocate(groups, 30)] == ["a0", "b0", "c0"]
    assert [option.choice for option in allocate(groups, 40)] == ["a1", "b0", "c0"]
    assert [option.choice for option in allocate(groups, 45)] == ["a1", "b0", "c1"]
    assert [option.choice for option in allocate(groups, 70)] == ["a1", "b1", "c0"]
    assert [option.choice for option in allocate(groups, 1000)] == ["a1", "b1", "c1"]


def test_a_budget_that_nothing_fits() -> None:
    with pytest.raises(ValueError, match="5 bytes more than the budget"):
        allocate([[Option(10, 1, None)], [Option(15, 1, None), Option(90, 0, None)]], 20)
