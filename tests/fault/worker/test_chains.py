"""A job that waits for another one, whose worker is killed, stopped or never does it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import doorbell, repository
from jobs.job import Job
from jobs.repository import NewJob
from jobs.states import State
from tests.fault.worker.support import House, eventually, pids, worker_process
from tests.fault.worker.test_kills import in_the_middle
from worker.context import Worker
from worker.runner import run_until_idle


def chain(house: House, how: str = "finish", **todo: Any) -> tuple[Job, Job]:
    """A base whose child does as it is told, and a job that waits for it."""
    base = NewJob("quantize", {"how": how, **todo})
    job = NewJob("finetune", {"base": base.id}, waits_for=base.id)
    with house.database.begin() as connection:
        made = repository.accept_all(connection, [replace(base, made_for=job.id), job])
    doorbell.ring(house.settings, made[1])
    return made[0], made[1]


def check(house: House, base: Job, job: Job) -> None:
    """Both have succeeded, one after the other, and the second knows what it was made from."""
    base, job = house.get(base), house.get(job)
    assert base.finished_at is not None and job.started_at is not None
    assert base.finished_at <= job.started_at
    manifest = {file.path: file.sha256 for file in house.artifacts(base)}["manifest.json"]
    assert job.input["base_manifest_sha256"] == manifest
    assert house.event_types(job)[:3] == ["accepted", "released", "started"]


def test_one_worker_does_both(house: House, worker: Worker) -> None:
    base, job = chain(house)
    run_until_idle(worker)
    assert (house.get(base).state, house.get(job).state) == (State.SUCCEEDED,) * 2
    check(house, base, job)


def test_the_worker_is_killed_in_the_base(house: House, tmp_path: Path) -> None:
    base, job = chain(house, "wait", bad_attempts=1, pid_file=str(tmp_path / "pids"))
    with worker_process(house.settings) as process:
        in_the_middle(house, base)
        process.kill()
        process.wait()
    assert house.get(job) == job
    with worker_process(house.settings, "second"):
        assert house.wait(job, State.SUCCEEDED).attempt == 1
    assert house.get(base).attempt == 2
    check(house, base, job)


def test_the_worker_ends_with_the_base(house: House, worker: Worker) -> None:
    """Nobody is left who was there when the wait ended: the next one finds out by itself."""
    base, job = chain(house, size_bytes=100)
    original = worker.store.put_file

    def drain_and_put(key: str, path: Path) -> Any:
        worker.drain.set()
        return original(key, path)

    worker.store.put_file = drain_and_put  # type: ignore[method-assign]
    run_until_idle(worker)
    assert house.get(base).state == State.SUCCEEDED
    assert (house.get(job).state, house.get(job).waits_for) == (State.QUEUED, None)
    with worker_process(house.settings, "second"):
        house.wait(job, State.SUCCEEDED)
    check(house, base, job)


def test_a_base_that_kills_every_worker_ends_the_chain(house: House) -> None:
    base, job = chain(house, "segfault")
    with worker_process(house.settings):
        failed = house.wait(job, State.FAILED)
    assert house.get(base).state == State.FAILED
    assert failed.error is not None
    assert (failed.error["code"], failed.error["base_code"]) == ("base_failed", "worker_crashed")
    assert failed.attempt == 0


def test_a_cancel_while_the_base_runs_stops_it(house: House, tmp_path: Path) -> None:
    base, job = chain(house, "wait", pid_file=str(tmp_path / "pids"))
    with worker_process(house.settings):
        in_the_middle(house, base)
        assert house.cancel(job).state == State.CANCELLED
        house.wait(base, State.CANCELLED)
        eventually(house.no_scratch_left, "an empty scratch")
    assert len(pids(tmp_path / "pids")) == 1
