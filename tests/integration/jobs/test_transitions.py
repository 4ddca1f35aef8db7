"""The table of transitions against the database: every pair, every function, every shape of row."""

from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Connection, update
from sqlalchemy.exc import IntegrityError

from jobs import leases, maintenance, repository
from jobs.clock import from_now, now
from jobs.database import Database
from jobs.errors import CancelRequested, JobAlreadyFinished, LeaseLost
from jobs.job import Job
from jobs.rows import change
from jobs.schema import jobs
from jobs.settings import Settings
from jobs.states import HELD, TERMINAL, TRANSITIONS, State
from tests.integration.jobs.test_repository import accept

ERROR = {"code": "it_broke", "message": "it broke", "fault": "infra", "retryable": True}


def job_in(database: Database, state: State) -> Job:
    """A job that came to this state by what clients and workers do."""
    accept(database)
    with database.begin() as connection:
        job = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
        assert job is not None
        match state:
            case State.QUEUED:
                leases.requeue(connection, job.id, job.attempt, "drained")
            case State.CANCELLING | State.CANCELLED:
                repository.request_cancel(connection, job.id)
                if state is State.CANCELLED:
                    leases.cancelled(connection, job.id, job.attempt)
            case State.SUCCEEDED:
                leases.publish(connection, job.id, job.attempt, [], {})
            case State.FAILED:
                leases.fail(connection, job.id, job.attempt, ERROR)
        job = repository.get(connection, job.id)
    assert job.state is state
    return job


@pytest.mark.parametrize("start", State)
def test_a_row_changes_as_the_table_says(database: Database, start: State) -> None:
    for target in State:
        job = job_in(database, start)
        values: dict[str, Any] = {"error": ERROR} if target is State.FAILED else {}
        if target in HELD:
            values["lease_until"] = from_now(60)
        with database.begin() as connection:
            changed = change(connection, jobs.c.id == job.id, to=target, values=values)
        assert (changed is not None) == (target in TRANSITIONS[start]), target
        assert changed is None or changed.state is target
        with database.begin() as connection:  # nothing to claim for the next one
            connection.execute(jobs.delete())


Act = Callable[[Connection, Job, Settings], Any]
ACTS: dict[str, tuple[Act, set[tuple[State, State]]]] = {  # and each step it can be
    "claim": (
        lambda c, j, s: leases.claim(c, worker_id="w", device_class="cpu", lease_ttl_s=60),
        {(State.QUEUED, State.RUNNING)},
    ),
    "publish": (
        lambda c, j, s: leases.publish(c, j.id, j.attempt, [], {}),
        {(State.RUNNING, State.SUCCEEDED)},
    ),
    "fail": (
        lambda c, j, s: leases.fail(c, j.id, j.attempt, ERROR),
        {(State.RUNNING, State.FAILED)},
    ),
    "requeue": (
        lambda c, j, s: leases.requeue(c, j.id, j.attempt, "drained"),
        {(State.RUNNING, State.QUEUED)},
    ),
    "lose": (
        lambda c, j, s: leases.lose(c, j, ERROR, s),
        {(State.RUNNING, State.QUEUED)},
    ),
    "cancelled": (
        lambda c, j, s: leases.cancelled(c, j.id, j.attempt),
        {(State.CANCELLING, State.CANCELLED)},
    ),
    "request_cancel": (
        lambda c, j, s: repository.request_cancel(c, j.id),
        {(State.QUEUED, State.CANCELLED), (State.RUNNING, State.CANCELLING)},
    ),
    "expire": (
        lambda c, j, s: _sweep_late(c, s, "expires_at"),
        {(State.QUEUED, State.FAILED), (State.RUNNING, State.FAILED)},
    ),
    "lapse": (
        lambda c, j, s: _sweep_late(c, s, "lease_until"),
        {(State.RUNNING, State.QUEUED), (State.CANCELLING, State.CANCELLED)},
    ),
}


def _sweep_late(connection: Connection, settings: Settings, column: str) -> None:
    states = HELD if column == "lease_until" else set(State) - TERMINAL
    late = update(jobs).where(jobs.c.state.in_(states)).values({column: from_now(-1)})
    connection.execute(late)
    maintenance.sweep(connection, settings)


@pytest.mark.parametrize("start", State)
@pytest.mark.parametrize("name", ACTS)
def test_each_act_is_a_step_of_the_table(
    database: Database, settings: Settings, name: str, start: State
) -> None:
    act, steps = ACTS[name]
    job = job_in(database, start)
    with database.begin() as connection:
        with suppress(JobAlreadyFinished, LeaseLost, CancelRequested):
            act(connection, job, settings)
        end = repository.get(connection, job.id).state
    expected = {target for source, target in steps if source is start} or {start}
    assert {end} == expected


def test_every_step_of_the_table_is_somebodys_act() -> None:
    done = set().union(*(steps for _, steps in ACTS.values()))
    assert done == {(source, target) for source in State for target in TRANSITIONS[source]}


@pytest.mark.parametrize("state", State)
def test_the_database_refuses_every_other_shape(database: Database, state: State) -> None:
    """Exactly one combination of lease, end and error fits a state."""
    job = accept(database)
    legal = (state in HELD, state in TERMINAL, state is State.FAILED)
    for shape in product((True, False), repeat=3):
        held, finished, failed = shape
        values = {
            "state": state,
            "lease_until": now() if held else None,
            "finished_at": now() if finished else None,
            "error": ERROR if failed else None,
        }
        statement = update(jobs).where(jobs.c.id == job.id).values(values)
        if shape == legal:
            with database.begin() as connection:
                connection.execute(statement)
        else:
            with pytest.raises(IntegrityError), database.begin() as connection:
                connection.execute(statement)


def test_the_database_knows_no_other_state(database: Database) -> None:
    job = accept(database)
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(state="paused"))
