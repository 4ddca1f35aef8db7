"""How an attempt can end: a worker in this process, real children, one fault after another."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from jobs import intake, leases, maintenance, repository
from jobs.artifacts import Stored, open_store
from jobs.intake import Order
from jobs.job import Job
from jobs.requests import QuantizeRequest
from jobs.states import State
from tests.columns import stored_keys
from tests.fault.worker.support import House, eventually, is_alive, pids
from tests.tiny_models import make_tiny
from worker.app import CHILD_COMMAND
from worker.context import Worker
from worker.runner import run_until_idle
from worker.supervisor import supervise
from worker.sweeper import prune_scratch, sweep

NO_TEXT = {
    "calibration": {"source": "builtin", "samples": 4, "length": 32, "held_out": 2},
    "evaluation": {"samples": 0},
}


def run_to_end(house: House, worker: Worker, job: Job) -> Job:
    """Run, and run again after each pause, until the job has ended."""

    def ended() -> Job | None:
        run_until_idle(worker)
        return found if (found := house.get(job)).is_terminal else None

    return eventually(ended, "the end")


@contextmanager
def running(worker: Worker) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=run_until_idle, args=(worker,))
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()


def test_a_job_that_goes_well(house: House, worker: Worker) -> None:
    job = house.accept(size_bytes=3_000_000)
    run_until_idle(worker)
    job = house.get(job)
    assert (job.state, job.attempt, job.metrics) == (State.SUCCEEDED, 1, {"answer": 42})
    assert job.progress == {"done": 3, "total": 3, "unit": "block"}
    assert [file.path for file in house.artifacts(job)] == [
        "README.md",
        "manifest.json",
        "model/config.json",
        "model/model.safetensors",
    ]
    house.check_published_by(job, 1)
    types = house.event_types(job)
    assert types[:2] == ["accepted", "started"]
    assert types[-1] == "succeeded"
    assert types.count("block") == 3
    phases = [event.data["phase"] for event in house.events(job) if event.type == "phase"]
    assert phases == ["quantizing", "uploading"]
    assert "attempt 1 says hello" in house.log(job, 1)
    assert house.no_scratch_left()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("killed", "signal 9 (SIGKILL)"),
        ("segfault", "signal 11 (SIGSEGV)"),
        ("raise", "exit code 1; its last words: RuntimeError: the matrix is singular"),
        ("exit_zero", "exit code 0"),  # it said nothing about a result
        ("exit_two", "exit code 2"),  # not a user's fault without an error that says so
        ("stop_unasked", "exit code 75"),
    ],
)
def test_a_crash_is_tried_again(house: House, worker: Worker, how: str, words: str) -> None:
    job = house.accept(how, bad_attempts=1)
    job = run_to_end(house, worker, job)
    assert (job.state, job.attempt, job.infra_losses, job.error) == (State.SUCCEEDED, 2, 1, None)
    house.check_published_by(job, 2)
    retrying = next(event for event in house.events(job) if event.type == "retrying")
    assert retrying.data["error"]["code"] == "worker_crashed"
    assert words in retrying.data["error"]["message"]
    assert "attempt 1 says hello" in house.log(job, 1)
    assert house.no_scratch_left()


def test_a_crash_loop_ends_and_the_worker_lives_on(house: House, worker: Worker) -> None:
    crashing = house.accept("killed")
    job = run_to_end(house, worker, crashing)
    assert (job.state, job.attempt) == (State.FAILED, 3)
    assert job.error is not None
    assert (job.error["code"], job.error["fault"]) == ("worker_crashed", "infra")
    assert (job.error["losses"], job.error["retryable"]) == (3, True)
    assert house.stored_files() == set()
    good = run_to_end(house, worker, house.accept())
    assert good.state == State.SUCCEEDED
    assert house.no_scratch_left()


def test_the_users_fault_is_not_tried_again(house: House, worker: Worker) -> None:
    job = house.accept("user_error")
    run_until_idle(worker)
    job = house.get(job)
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.error == {
        "code": "group_too_large",
        "message": "the group does not fit",
        "param": "group_size",
        "fault": "user",
        "retryable": False,
    }
    assert house.artifacts(job) == []
    assert house.stored_files() == set()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("disk_full", "disk_full"),
        ("disk_quota", "disk_full"),
        ("infra_error", "hub_unreachable"),
        ("store_away", "store_unavailable"),
    ],
)
def test_what_the_machine_lacks_is_said(house: House, worker: Worker, how: str, code: str) -> None:
    soon = house.settings.model_copy(update={"retry_backoff_s": 0.01})  # an outage: 60 times that
    job = run_to_end(house, replace(worker, settings=soon), house.accept(how))
    assert (job.state, job.attempt) == (State.FAILED, 3)
    assert job.error is not None
    assert (job.error["code"], job.error["fault"], job.error["losses"]) == (code, "infra", 3)
    assert house.stored_files() == set()


def test_a_worker_that_loses_every_job_takes_ever_fewer(house: House, worker: Worker) -> None:
    slow = house.settings.model_copy(update={"retry_backoff_s": 0.5})
    for _ in range(10):
        house.accept("killed")
    good = house.accept()
    with running(replace(worker, settings=slow)):
        time.sleep(6)
        worker.drain.set()
    with house.database.read() as connection:
        jobs, _ = repository.list_jobs(connection)
    attempts = sum(job.attempt for job in jobs)
    assert 2 <= attempts <= 5  # at 0, 0.5, 1.5, 3.5 s at the soonest, and then not before 7.5
    assert house.get(good).attempt == 0


def test_a_host_without_its_gpu_fails_no_job(house: House, worker: Worker) -> None:
    """The real child: what it lacks is the host's, so that another host may go on."""
    make_tiny(house.settings.models_dir / "tiny")
    order = Order(QuantizeRequest.model_validate({"bits": 2, "model": "tiny"} | NO_TEXT))
    todo = intake.resolve_order(order, house.settings).request.to_input()
    with house.database.begin() as connection:
        job = repository.accept(connection, type="quantize", input=todo)
        claimed = leases.claim(connection, worker_id="w", device_class="cuda", lease_ttl_s=60)
    assert claimed is not None
    settings = house.settings.model_copy(update={"device": "cuda", "lease_ttl_s": 60.0})
    worker = replace(worker, settings=settings, child_command=CHILD_COMMAND)
    assert not supervise(worker, claimed)
    job = house.get(job)
    assert (job.state, job.infra_losses) == (State.QUEUED, 1)
    lost = house.events(job)[-1]
    assert (lost.type, lost.data["error"]["code"]) == ("retrying", "illegal_device")
    assert (lost.data["error"]["fault"], lost.data["error"]["retryable"]) == ("infra", True)


def test_figures_that_are_no_numbers(house: House, worker: Worker) -> None:
    job = house.accept("odd_figures")
    run_until_idle(worker)
    job = house.get(job)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
    assert job.metrics == {"answer": None, "of_each": [1.5, None]}
    (point,) = [event.data for event in house.events(job) if event.type == "metrics"]
    assert point == {"step": 1, "train_loss": None}


def test_words_that_no_row_takes(house: House, worker: Worker) -> None:
    job = house.accept("odd_error")
    run_until_idle(worker)
    job = house.get(job)
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.error is not None
    assert job.error["message"] == "a row has a\ufffdb\ufffdc"
    assert job.error["value"] == "a\ufffdb\ufffdc"
    (warning,) = [event.data for event in house.events(job) if event.type == "warning"]
    assert warning == {"code": "odd", "a\ufffdb\ufffdc": ["a\ufffdb\ufffdc"]}


def test_last_words_that_no_row_takes(house: House, worker: Worker) -> None:
    job = run_to_end(house, worker, house.accept("odd_last_words"))
    assert (job.state, job.attempt) == (State.FAILED, 3)
    assert job.error is not None
    assert job.error["code"] == "worker_crashed"
    assert "its last words: the last words: a\ufffdb; 3 times" in job.error["message"]


def test_what_the_supervisor_cannot_do_is_an_end_too(house: House, worker: Worker) -> None:
    job = run_to_end(house, worker, house.accept("odd_name"))
    assert (job.state, job.attempt) == (State.FAILED, 3)
    assert job.error is not None
    assert job.error["code"] == "worker_failed"
    assert "not a key of an artifact store" in job.error["message"]
    assert house.stored_files() == set()
    assert house.no_scratch_left()


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


def test_the_log_keeps_no_secret(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "open-sesame-42")
    monkeypatch.setenv("APIQ_DATABASE_URL", "postgresql://apiq:hunter2@db/apiq")
    monkeypatch.setenv("APIQ_HOST", "127.0.0.1")
    secrets = "hf_ABCDEFGHIJKL open-sesame-42 https://me:pass-word@host Bearer abc.def.ghijk"
    job = house.accept("raise", say=secrets, bad_attempts=1)
    job = run_to_end(house, worker, job)
    everything = house.log(job, 1) + str(house.events(job))
    for secret in ("hf_ABC", "open-sesame", "pass-word", "abc.def", "hf_abcdef"):
        assert secret not in everything
    assert everything.count("[redacted]") >= 5
    assert "APIQ_HOST" in everything
    assert "APIQ_DATABASE_URL" not in everything  # the child does not even know it
    assert "https://[redacted]@host" not in everything  # no half of it either
    assert "://[redacted]host" in everything


def test_the_log_can_be_read_while_the_job_runs(house: House, worker: Worker) -> None:
    job = house.accept("wait", bad_attempts=1)
    with running(worker):
        eventually(lambda: house.has_log(job, 1), "a log")
        assert house.get(job).state == State.RUNNING
        assert "attempt 1 says hello" in house.log(job, 1)
        house.cancel(job)


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


def test_scratch_of_the_dead_is_cleared_and_of_the_living_kept(
    house: House, worker: Worker
) -> None:
    job = house.accept()
    with house.database.begin() as connection:
        leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    names = [f"{job.id}.1", f"{job.id}.0", "job_unknown.1", "odd.name"]
    for name in names:
        (house.settings.scratch_dir / name / "out").mkdir(parents=True)
    prune_scratch(worker)
    assert [path.name for path in house.settings.scratch_dir.iterdir()] == [f"{job.id}.1"]


def test_a_sweep_ends_what_is_lost_and_clears_its_files(house: House, worker: Worker) -> None:
    job = house.accept()
    settings = house.settings.model_copy(update={"max_infra_losses": 1})
    with house.database.begin() as connection:
        leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=-1)
    file = house.settings.data_dir / "file"
    file.write_text("uploaded before the worker died")
    house.store.put_file(f"jobs/{job.id}/attempts/1/files/model/x", file)
    sweep(replace(worker, settings=settings))
    found: dict[str, Any] | None = house.get(job).error
    assert found is not None and found["code"] == "worker_lost"
    assert house.stored_files() == set()
