"""What is asked often reads an index, however long the table is."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from benchmarks.load.claim import analyze, fill, selects
from jobs import leases, maintenance, repository
from jobs.database import Database
from jobs.settings import Settings
from jobs.states import State

ROWS = 3000

QUERIES: dict[str, tuple[Callable[[Connection, Settings], object], str]] = {
    "a label": (
        lambda c, _: repository.list_jobs(c, labels={"team": "nobody"}, limit=20),
        "ix_job_labels_key_value_job_id",
    ),
    "a frequent label": (
        lambda c, _: repository.list_jobs(c, labels={"team": "team1"}, limit=20),
        "ix_job_labels_key_value_job_id",
    ),
    "two labels": (
        lambda c, _: repository.list_jobs(c, labels={"team": "team7", "n": "x"}, limit=20),
        "ix_job_labels_key_value_job_id",
    ),
    "a model": (
        lambda c, _: repository.list_jobs(c, model="org/nobody", limit=20),
        "ix_jobs_model_id",
    ),
    "claim": (
        lambda c, _: leases.claim(c, worker_id="w", device_class="cpu", lease_ttl_s=60),
        "ix_jobs_claim",
    ),
}


@pytest.fixture(params=[False, True], ids=["as it grew", "analyzed"])
def filled(database: Database, request: pytest.FixtureRequest) -> Database:
    """A long queue."""
    fill(database, ROWS)
    if request.param or database.is_postgresql:  # whose autovacuum does it
        analyze(database)
    return database


def let_wait(database: Database) -> None:
    """Half as many again, of the highest priority, each waiting for one of the others."""
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO jobs (id, type, owner, state, attempt, infra_losses, event_seq, priority,"
            " device_class, input, labels, metadata, created_at, run_after, waits_for)"
            " SELECT 'w' || substr(id, 2), 'finetune', owner, state, 0, 0, 1, 100, device_class,"
            " input, '{}', '{}', created_at, run_after, id"
            f" FROM jobs ORDER BY id LIMIT {ROWS // 2}"
        )
    if database.is_postgresql:
        analyze(database)


def plan_of(database: Database, statement: str, parameters: Any) -> str:
    how = "EXPLAIN" if database.is_postgresql else "EXPLAIN QUERY PLAN"
    with database.begin() as connection:
        found = connection.exec_driver_sql(f"{how} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in found)


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_the_whole_table(filled: Database, settings: Settings, name: str) -> None:
    query, index = QUERIES[name]
    with filled.begin() as connection, selects(connection) as asked:
        query(connection, settings)
    plans = [plan_of(filled, *question) for question in asked]
    (plan,) = [plan for plan in plans if index in plan]
    assert "Sort" not in plan and "TEMP B-TREE" not in plan  # the first rows are enough
    for plan in plans:
        assert "Seq Scan on job" not in plan and not re.search(r"SCAN job\w+(?! USING)", plan)


def test_those_that_wait_for_another_are_not_looked_at(
    filled: Database, settings: Settings
) -> None:
    """By a claim: its index does not hold them."""
    let_wait(filled)
    test_no_query_reads_the_whole_table(filled, settings, "claim")


def test_who_waits_for_a_job_is_found_by_it(filled: Database) -> None:
    let_wait(filled)
    with filled.begin() as connection, selects(connection) as asked:
        job = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
        assert job is not None and job.waits_for is None
        leases.fail(connection, job.id, 1, maintenance.WORKER_LOST)
    plans = [plan_of(filled, *question) for question in asked]
    (plan,) = [plan for plan in plans if "ix_jobs_waits_for" in plan]
    assert "Seq Scan" not in plan


@pytest.mark.parametrize(
    ("query", "moment"),
    [
        (lambda c, s: maintenance.sweep(c, s), "finished"),
        (lambda c, _: maintenance.expire_waiting(c), "expires"),
    ],
    ids=["retention", "expiry of those that wait"],
)
def test_only_those_whose_time_is_over_are_looked_at(
    filled: Database,
    settings: Settings,
    query: Callable[[Connection, Settings], object],
    moment: str,
) -> None:
    settings = settings.model_copy(update={"retention_days": 1.0})
    with filled.begin() as connection, selects(connection) as asked:
        query(connection, settings)
    plans = [plan_of(filled, *question) for question in asked]
    (plan,) = [plan for plan in plans if f"ix_jobs_{moment}" in plan]
    assert re.search(rf"(Index Cond: |USING INDEX ).*{moment}_at ?<", plan), plan


def test_a_sweep_does_not_look_at_the_queue(filled: Database, settings: Settings) -> None:
    """Whatever it looks for, it does not go through all who wait."""
    with filled.begin() as connection, selects(connection) as asked:
        maintenance.sweep(connection, settings)
    assert asked
    for question in asked:
        assert State.QUEUED not in parameters_of(question)
        plan = plan_of(filled, *question)
        assert "ix_jobs_claim" not in plan
        assert "Seq Scan on job" not in plan and not re.search(r"SCAN job\w+(?! USING)", plan)


def parameters_of(question: tuple[str, Any]) -> list[Any]:
    _, parameters = question
    return list(parameters.values() if isinstance(parameters, dict) else parameters)
