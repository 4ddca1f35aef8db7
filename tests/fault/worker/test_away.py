"""A store or a database that is away around an attempt, for a moment or for longer."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from apiq_core.errors import Stopped
from jobs import repository
from jobs.artifacts import ArtifactStore, Stored
from jobs.database import Database
from jobs.errors import StoreUnavailable
from jobs.schema import jobs as jobs_table
from jobs.settings import Settings
from jobs.states import State
from tests.fault.worker.running import running
from tests.fault.worker.support import House, eventually
from tests.fault.worker.test_resume import run_once
from worker import bases, supervisor
from worker.context import Worker
from worker.sweeper import Sweeper, sweep


class AwayStore:
    """A column's store that breaks off so many downloads, each after its first chunk."""

    def __init__(self, store: ArtifactStore, times: int) -> None:
        self._store = store
        self.times = times

    def open_range(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        for chunk in self._store.open_range(key, start, end):
            yield chunk
            if self.times:
                self.times -= 1
                raise StoreUnavailable(f"{key} breaks off")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def files(store: ArtifactStore, tmp_path: Path) -> list[dict[str, str]]:
    """Of a base that is in the store."""
    path = tmp_path / "weights"
    path.write_bytes(b"0123456789" * 1000)
    key = "jobs/job_1/attempts/1/files/model/model.safetensors"
    sha256 = store.put_file(key, path).sha256
    return [{"path": "model/model.safetensors", "key": key, "sha256": sha256}]


def test_a_base_is_fetched_from_a_store_that_breaks_off(
    store: ArtifactStore, tmp_path: Path, files: list[dict[str, str]]
) -> None:
    away = AwayStore(store, times=2)
    bases.fetch(files, tmp_path / "base", away, lambda: None)
    content = (tmp_path / "base" / "model" / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == files[0]["sha256"]
    assert away.times == 0


def test_who_waits_for_a_store_can_be_stopped(
    store: ArtifactStore, tmp_path: Path, files: list[dict[str, str]]
) -> None:
    away = AwayStore(store, times=1000)

    def check() -> None:
        if away.times < 999:
            raise Stopped

    with pytest.raises(Stopped):
        bases.fetch(files, tmp_path / "base", away, check)


class AwayDatabase(Database):
    """Away for so many reads, in the words of a driver."""

    def __init__(self, settings: Settings, times: int) -> None:
        super().__init__(settings.database_url)
        self.times = times

    @contextmanager
    def read(self) -> Iterator[Connection]:
        if self.times:
            self.times -= 1
            words = 'connection to server at "10.1.2.3", port 5432 failed for user "apiq"'
            raise OperationalError("SELECT token FROM job_secrets", {}, Exception(words))
        with super().read() as connection:
            yield connection


@pytest.mark.column("production")  # to SQLite most that is operational is no outage
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_database_that_is_away_as_an_attempt_begins(
    house: House, worker: Worker, times: int
) -> None:
    database = AwayDatabase(house.settings, times)
    job = house.accept(ring=False)
    quiet = house.settings.model_copy(update={"cancel_poll_s": 60.0})  # reads are the attempt's own
    run_once(replace(worker, settings=quiet, database=database))
    database.dispose()
    assert database.times == 0
    assert (house.get(job).state, house.get(job).infra_losses) == (State.SUCCEEDED, 0)


@pytest.mark.column("production")
def test_a_database_that_stays_away_is_not_quoted(house: House, worker: Worker) -> None:
    database = AwayDatabase(house.settings, 10_000)
    job = house.accept(ring=False)
    quiet = house.settings.model_copy(update={"cancel_poll_s": 60.0})
    run_once(replace(worker, settings=quiet, database=database))
    database.dispose()
    (lost,) = [event for event in house.events(job) if event.type == "retrying"]
    assert lost.data["error"] == {
        "code": "database_unavailable",
        "message": "the database was away",
        "fault": "infra",
        "retryable": True,
    }


class HangingStore:
    """A column's store that takes no file before it is let go."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.asked, self.go_on = threading.Event(), threading.Event()

    def put_file(self, key: str, path: Path) -> Stored:
        self.asked.set()
        self.go_on.wait(60)
        return self._store.put_file(key, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("how", ["wait", "deaf"])
def test_a_store_that_hangs_keeps_no_worker_from_its_end(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(supervisor, "LAST_STORE_S", 1.0)
    job = house.accept(how, blocks=[2], ring=False)
    store = HangingStore(house.store)
    with running(replace(worker, store=store)):
        assert store.asked.wait(30)
        eventually(lambda: house.get(job).phase == "quantizing")
        began = time.monotonic()
        worker.drain.set()
        eventually(lambda: house.get(job).state == State.QUEUED, within_s=15)
        assert time.monotonic() - began < 15
    store.go_on.set()
    assert (house.get(job).infra_losses, house.event_types(job)[-1]) == (0, "requeued")


class SlowStore:
    """A column's store that is away, and takes its time to say so."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.asked: list[str] = []

    def delete_prefix(self, prefix: str) -> None:
        self.asked.append(prefix)
        time.sleep(1.0)
        raise StoreUnavailable(f"could not delete {prefix}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def deleted_jobs(house: House, number: int) -> None:
    for _ in range(number):
        job = house.accept(ring=False)
        with house.database.begin() as connection:
            repository.request_cancel(connection, job.id)
            repository.delete(connection, job.id)


def test_a_sweep_does_not_wait_for_a_store_again_and_again(house: House, worker: Worker) -> None:
    deleted_jobs(house, 5)
    slow = SlowStore(house.store)
    sweep(replace(worker, store=slow))
    assert len(slow.asked) == 1  # it took longer than an interval
    patient = house.settings.model_copy(update={"sweep_interval_s": 60.0})
    sweep(replace(worker, settings=patient))
    with house.database.read() as connection:
        assert connection.execute(select(jobs_table.c.id)).all() == []


def test_the_end_of_a_worker_ends_its_sweep(house: House, worker: Worker) -> None:
    deleted_jobs(house, 20)
    slow = SlowStore(house.store)
    patient = house.settings.model_copy(update={"sweep_interval_s": 60.0})
    sweeper = Sweeper(replace(worker, settings=patient, store=slow))
    sweeper.start()
    eventually(lambda: slow.asked, "a try")
    began = time.monotonic()
    sweeper.stop()
    assert time.monotonic() - began < 4
    assert not sweeper.is_alive() and len(slow.asked) < 5
