"""How an attempt can end: a worker in this process, real children, one fault after another."""

import time
from dataclasses import replace

import pytest

from jobs import intake, leases, repository
from jobs.intake import Order
from jobs.requests import QuantizeRequest
from jobs.states import State
from tests.fault.worker.running import run_to_end, running
from tests.fault.worker.support import House, eventually
from tests.tiny_models import make_tiny
from worker.app import CHILD_COMMAND
from worker.context import Worker
from worker.runner import run_until_idle
from worker.supervisor import supervise

NO_TEXT = {
    "calibration": {"source": "builtin", "samples": 4, "length": 32, "held_out": 2},
    "evaluation": {"samples": 0},
}


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
