"""A job is cancelled, given back or taken away while it runs."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import leases, repository
from jobs.states import State
from tests.fault.worker.running import running
from tests.fault.worker.support import House, eventually, is_alive, pids
from worker.context import Worker
from worker.runner import run_until_idle


def test_cancel_while_running(house: House, worker: Worker, tmp_path: Path) -> None:
    job = house.accept("wait", pid_file=str(tmp_path / "pids"))
    with running(worker):
        eventually(lambda: house.get(job).phase == "quantizing")
        assert house.cancel(job).state == State.CANCELLING
        job = house.wait(job, State.CANCELLED)
    assert house.event_types(job)[-2:] == ["cancelling", "cancelled"]
    assert (job.infra_losses, house.stored_files()) == (0, set())
    assert not any(is_alive(pid) for pid in pids(tmp_path / "pids"))
    assert house.no_scratch_left()


def test_cancel_of_a_child_that_does_not_listen(
    house: House, worker: Worker, tmp_path: Path
) -> None:
    job = house.accept("deaf", pid_file=str(tmp_path / "pids"))
    with running(worker):
        eventually(lambda: house.get(job).phase == "quantizing")
        house.cancel(job)
        house.wait(job, State.CANCELLED)
    assert not any(is_alive(pid) for pid in pids(tmp_path / "pids"))


def test_cancel_while_queued(house: House, worker: Worker) -> None:
    job = house.accept()
    house.cancel(job)
    run_until_idle(worker)
    assert house.get(job).state == State.CANCELLED
    assert house.get(job).attempt == 0


@pytest.mark.parametrize("how", ["wait", "deaf"])
def test_a_drain_gives_the_job_back_unharmed(house: House, worker: Worker, how: str) -> None:
    job = house.accept(how, bad_attempts=1)
    with running(worker):
        eventually(lambda: house.get(job).phase == "quantizing")
        worker.drain.set()
    job = house.get(job)
    assert (job.state, job.infra_losses, job.attempt) == (State.QUEUED, 0, 1)
    run_until_idle(worker)
    assert house.get(job).attempt == 1  # a worker that ends claims nothing
    run_until_idle(Worker(house.settings, house.database, house.store, worker.child_command))
    assert house.get(job).state == State.SUCCEEDED
    house.check_published_by(job, 2)


def test_an_attempt_that_lost_its_lease_ends_its_child_and_writes_nothing(
    house: House, worker: Worker, tmp_path: Path
) -> None:
    job = house.accept("wait", pid_file=str(tmp_path / "pids"), bad_attempts=1)
    with running(worker):
        eventually(lambda: house.get(job).phase == "quantizing")
        with house.database.begin() as connection:
            error = {"code": "worker_lost", "message": "", "fault": "infra", "retryable": True}
            leases.lose(connection, repository.get(connection, job.id), error, house.settings)
            connection.exec_driver_sql("UPDATE jobs SET run_after = run_after + 3600000")
        before = house.get(job)
    assert house.get(job) == before
    assert not any(is_alive(pid) for pid in pids(tmp_path / "pids"))
    assert house.stored_files() == set()


@pytest.mark.column("embedded")  # the other one's is really away: test_postgresql.py
def test_a_database_that_is_away_for_a_while_costs_nothing(house: House, worker: Worker) -> None:
    job = house.accept("wait", bad_attempts=1)
    worker = replace(worker, settings=house.settings.model_copy(update={"lease_ttl_s": 30.0}))
    with running(worker):
        eventually(lambda: house.get(job).phase == "quantizing")
        with house.database.begin() as connection:  # every write of an event fails from here on
            connection.exec_driver_sql("ALTER TABLE job_events RENAME TO away")
            connection.exec_driver_sql("UPDATE jobs SET state = 'cancelling'")
        time.sleep(1.5)
        assert house.get(job).state == State.CANCELLING
        with house.database.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO job_events")
        house.wait(job, State.CANCELLED)
    assert house.event_types(job)[-1] == "cancelled"
