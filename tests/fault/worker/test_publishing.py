"""What can come between the end of the work and what is published of it."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from jobs import leases, maintenance, repository
from jobs.artifacts import Stored, open_store
from jobs.states import State
from tests.columns import stored_keys
from tests.fault.worker.running import run_to_end, running
from tests.fault.worker.support import House, eventually
from worker.context import Worker
from worker.runner import run_until_idle


def test_what_is_not_published_goes_before_the_next_attempt(house: House, worker: Worker) -> None:
    """The next one may never come: a job that waits can be cancelled."""
    slow = house.settings.model_copy(update={"retry_backoff_s": 60.0})
    job = house.accept("odd_name")
    with running(replace(worker, settings=slow)):
        eventually(lambda: house.event_types(job)[-1] == "retrying")
        eventually(lambda: house.stored_files() == set())
        worker.drain.set()  # it pauses as well
    assert (house.get(job).state, house.get(job).attempt) == (State.QUEUED, 1)
    assert house.stored_files() == set()


class DeletedMeanwhile:
    """A store that is so slow that the job is ended, deleted and forgotten during an upload."""

    def __init__(self, house: House) -> None:
        self._house = house

    def put_file(self, key: str, path: Path) -> Stored:
        if key.endswith("/files/README.md"):
            job_id = key.split("/")[1]
            error = {"code": "max_runtime_exceeded"}
            with self._house.database.begin() as connection:
                leases.fail(connection, job_id, 1, error)
                repository.delete(connection, job_id)
                maintenance.forget_job(connection, job_id)
        return self._house.store.put_file(key, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._house.store, name)


def test_nothing_is_left_of_a_job_deleted_under_its_worker(house: House, worker: Worker) -> None:
    house.accept()
    run_until_idle(replace(worker, store=DeletedMeanwhile(house)))
    assert stored_keys(house.store) == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_store_that_is_full(house: House, worker: Worker, small_disk: Path) -> None:
    address = {"artifacts_url": f"file://{small_disk}"}
    full = open_store(house.settings.model_copy(update=address))
    worker = replace(worker, store=full)
    job = run_to_end(house, worker, house.accept(size_bytes=3_000_000))
    assert job.error is not None
    assert job.error["code"] == "disk_full"
    left = [path for path in small_disk.rglob("*") if path.is_file()]
    assert [path.name for path in left] in ([], ["child.log"] * len(left))
    fits = run_to_end(house, worker, house.accept())
    assert fits.state == State.SUCCEEDED


class Interrupted:
    """The house's store; something happens elsewhere when it has stored a certain file."""

    def __init__(self, house: House, after: str, then: Callable[[Connection], object]) -> None:
        self.house = house
        self.after = after
        self.then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self.house.store, name)

    def put_file(self, key: str, path: Path) -> Stored:
        stored = self.house.store.put_file(key, path)
        if key.endswith(self.after):
            with self.house.database.begin() as connection:
                self.then(connection)
        return stored


@pytest.mark.parametrize("after", ["README.md", "manifest.json"])
def test_a_cancel_between_the_works_end_and_the_commit(
    house: House, worker: Worker, after: str
) -> None:
    job = house.accept()
    store = Interrupted(house, after, lambda c: repository.request_cancel(c, job.id))
    run_until_idle(replace(worker, store=store))
    assert house.get(job).state == State.CANCELLED
    assert house.event_types(job)[-2:] == ["cancelling", "cancelled"]
    assert (house.artifacts(job), house.stored_files()) == ([], set())


def test_a_lease_that_is_lost_between_upload_and_commit(house: House, worker: Worker) -> None:
    job = house.accept()

    def lose(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE jobs SET lease_until = 0")
        maintenance.sweep(connection, house.settings)
        connection.exec_driver_sql("UPDATE jobs SET run_after = run_after + 3600000")

    run_until_idle(replace(worker, store=Interrupted(house, "manifest.json", lose)))
    assert house.get(job).state == State.QUEUED
    assert (house.artifacts(job), house.stored_files()) == ([], set())


def test_a_job_that_is_deleted_before_its_worker_hears_of_its_end(
    house: House, worker: Worker
) -> None:
    job = house.accept()

    def forget(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE jobs SET expires_at = 0")
        assert [x.id for x in maintenance.sweep(connection, house.settings).taken_back] == [job.id]
        repository.delete(connection, job.id)
        maintenance.forget_job(connection, job.id)

    run_until_idle(replace(worker, store=Interrupted(house, "manifest.json", forget)))
    assert not house.has_log(job, 1)  # nobody would ever look for what was stored since
    assert house.stored_files() == set()


def test_a_commit_whose_answer_was_lost_keeps_what_it_published(
    house: House, worker: Worker
) -> None:
    job = house.accept()

    def publish(connection: Connection) -> None:  # as the first try of the commit did
        leases.publish(connection, job.id, 1, [], {})

    run_until_idle(replace(worker, store=Interrupted(house, "manifest.json", publish)))
    assert house.get(job).state == State.SUCCEEDED
    assert len(house.stored_files()) == 4
