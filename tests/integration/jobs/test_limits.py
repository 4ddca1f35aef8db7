"""What decides whether and when a job runs: limits of time, priority, device class."""

from typing import Any

import pytest

from jobs import leases, maintenance, repository
from jobs.database import Database
from jobs.errors import LeaseLost
from jobs.job import Job
from jobs.settings import Settings


def accept(database: Database, **fields: Any) -> Job:
    with database.begin() as connection:
        return repository.accept(connection, type="quantize", input={}, **fields)


def claim(database: Database, device_class: str = "cpu") -> Job | None:
    with database.begin() as connection:
        return leases.claim(connection, worker_id="w", device_class=device_class, lease_ttl_s=60)


def get(database: Database, job: Job) -> Job:
    with database.read() as connection:
        return repository.get(connection, job.id)


def sweep(database: Database, settings: Settings) -> list[str]:
    with database.begin() as connection:
        return [job.id for job in maintenance.sweep(connection, settings).taken_back]


def let_pass(database: Database, seconds: int) -> None:
    """As if so much time had gone by."""
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET expires_at = expires_at - {seconds * 1000}")


def test_a_job_that_waited_too_long_fails_and_never_starts(
    database: Database, settings: Settings
) -> None:
    job = accept(database, max_pending_s=100)
    let_pass(database, 90)
    assert sweep(database, settings) == []
    let_pass(database, 20)
    assert claim(database) is None  # before any sweep
    assert sweep(database, settings) == [job.id]
    ended = get(database, job)
    assert ended.state == "failed"
    assert ended.error is not None
    assert (ended.error["code"], ended.error["retryable"]) == ("max_pending_exceeded", True)
    assert "100 s" in ended.error["message"]
    assert sweep(database, settings) == []
    assert claim(database) is None


def test_once_started_it_may_wait_again(database: Database, settings: Settings) -> None:
    job = accept(database, max_pending_s=100)
    assert (claimed := claim(database)) is not None
    assert claimed.expires_at is None
    with database.begin() as connection:
        leases.requeue(connection, job.id, 1, "drained")
    let_pass(database, 1000)
    assert sweep(database, settings) == []
    assert (again := claim(database)) is not None and again.attempt == 2


def test_a_job_that_runs_too_long_fails_and_its_worker_hears_of_it(
    database: Database, settings: Settings
) -> None:
    job = accept(database, max_runtime_s=100)
    let_pass(database, 1000)  # waiting does not count
    assert claim(database) is not None
    let_pass(database, 90)
    assert sweep(database, settings) == []
    let_pass(database, 20)
    assert sweep(database, settings) == [job.id]
    ended = get(database, job)
    assert (ended.state, ended.lease_until) == ("failed", None)
    assert ended.error is not None and ended.error["code"] == "max_runtime_exceeded"
    with database.read() as connection, pytest.raises(LeaseLost):
        leases.look(connection, job.id, 1)


def test_pauses_count(database: Database, settings: Settings) -> None:
    """Attempts do not begin anew: a job that is drained again and again ends, too."""
    job = accept(database, max_runtime_s=100)
    for attempt in (1, 2):
        assert claim(database) is not None
        let_pass(database, 40)
        with database.begin() as connection:
            leases.requeue(connection, job.id, attempt, "drained")
    let_pass(database, 30)
    assert claim(database) is None
    assert sweep(database, settings) == [job.id]


def test_a_cancel_goes_before_a_limit(database: Database, settings: Settings) -> None:
    job = accept(database, max_runtime_s=100)
    claim(database)
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
    let_pass(database, 200)
    assert sweep(database, settings) == []
    with database.begin() as connection:
        assert leases.cancelled(connection, job.id, 1).expires_at is None


def test_priority_then_age(database: Database) -> None:
    priorities = [0, 5, -3, 5, 0]
    ids = [accept(database, priority=priority).id for priority in priorities]
    order = [job.id for job in iter(lambda: claim(database), None)]
    assert order == [ids[1], ids[3], ids[0], ids[4], ids[2]]


def test_device_class(database: Database) -> None:
    wanted = {name: accept(database, device_class=name).id for name in ("cuda", "cpu", "any")}
    on_cpu = [job.id for job in iter(lambda: claim(database, "cpu"), None)]
    assert on_cpu == [wanted["cpu"], wanted["any"]]
    assert (job := claim(database, "cuda")) is not None and job.id == wanted["cuda"]
