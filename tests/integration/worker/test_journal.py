"""What of a child's words stays in a job's history."""

from typing import Any

import pytest

from jobs import leases, repository
from jobs.database import Database
from jobs.job import Job
from worker.journal import Journal

STEPS, TOTAL = 300, 10_000


def step(number: int) -> dict[str, Any]:
    progress = {"done": number, "total": TOTAL, "percent": round(100 * number / TOTAL, 1)}
    return {"kind": "event", "type": "progress", "data": progress}


@pytest.fixture
def job(database: Database) -> Job:
    """One that runs."""
    with database.begin() as connection:
        repository.accept(connection, type="finetune", input={})
        job = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    assert job is not None
    return job


def test_a_phase_is_told_once_by_whoever_enters_it_first(database: Database, job: Job) -> None:
    journal = Journal(database, job)
    journal.enter("downloading")  # blocks of an earlier attempt
    journal.flush(now=True)
    for phase in ("downloading", "calibrating"):  # the child's
        journal.take([{"kind": "event", "type": "phase", "data": {"phase": phase}}])
        journal.flush(now=True)
    with database.read() as connection:
        events = repository.events_after(connection, job.id)
        assert repository.get(connection, job.id).phase == "calibrating"
    told = [event.data["phase"] for event in events if event.type == "phase"]
    assert told == ["downloading", "calibrating"]


def test_a_long_training_leaves_few_events_of_progress(database: Database, job: Job) -> None:
    journal = Journal(database, job)
    for number in range(1, STEPS + 1):
        journal.take([step(number)])
        journal.flush(now=True)
        if number % 100 == 0:
            with database.read() as connection:  # it always shows what is
                assert repository.get(connection, job.id).progress == step(number)["data"]
    journal.take([step(STEPS + 1)])
    with database.begin() as connection:
        journal.write(connection)  # with the end of an attempt
    with database.read() as connection:
        events = repository.events_after(connection, job.id)
    told = [event.data["done"] for event in events if event.type == "progress"]
    assert told[0] == 1 and told[-1] == STEPS + 1
    assert 4 <= len(told) < 20  # each percent; and each 10 s, which a busy machine may need
