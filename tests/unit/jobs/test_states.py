"""The table of transitions, as a whole."""

import pytest

from jobs.states import HELD, TERMINAL, TRANSITIONS, State, sources


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_terminal_states_are_the_three_that_clients_know() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == TERMINAL


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_reached_and_ends(state: State) -> None:
    assert state is State.QUEUED or sources(state)
    reached, todo = {state}, [state]
    while todo:
        for target in TRANSITIONS[todo.pop()] - reached:
            reached.add(target)
            todo.append(target)
    assert reached & TERMINAL


def test_only_a_held_job_can_succeed() -> None:
    assert sources(State.SUCCEEDED) <= HELD
    assert sources(State.FAILED) <= HELD | {State.QUEUED}  # queued: its time was over


def test_a_cancelling_job_only_becomes_cancelled() -> None:
    assert TRANSITIONS[State.CANCELLING] == {State.CANCELLED}


@pytest.mark.parametrize("target", State)
def test_sources_is_the_inverse(target: State) -> None:
    assert sources(target) == {s for s in State if target in TRANSITIONS[s]}
