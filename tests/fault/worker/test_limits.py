"""Jobs whose time is over, with real workers; and a child that tells its hub token."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from jobs import doorbell, repository, secrets
from jobs.database import Database
from jobs.job import Job
from jobs.schema import job_secrets, metadata
from jobs.settings import Settings
from jobs.states import State
from tests.fault.worker.support import House, eventually, house_of, is_alive, pids, worker_process

CANARY = "zq7Canary.token~0123456789"  # like nothing that is blanked out by its looks


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr("s" * 40), "max_infra_losses": 1})


@pytest.fixture
def house(settings: Settings, database: Database) -> House:
    return house_of(settings, database)


def accept(house: House, *, token: str | None = None, **fields: Any) -> Job:
    with house.database.begin() as connection:
        job = repository.accept(connection, type="quantize", **fields)
        if token is not None:
            secrets.put(connection, job.id, SecretStr(token), house.settings)
    doorbell.ring(house.settings, job)
    return job


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


def test_a_child_is_stopped_when_its_time_is_over(house: House, tmp_path: Path) -> None:
    for how in ("wait", "deaf"):
        file = tmp_path / how
        todo = {"how": how, "pid_file": str(file)}
        job = accept(house, input=todo, max_runtime_s=2)
        with worker_process(house.settings):
            ended = house.wait(job, State.FAILED)
            assert ended.error is not None
            assert ended.error["code"] == "max_runtime_exceeded"
            assert ended.started_at is not None and ended.finished_at is not None
            assert (ended.finished_at - ended.started_at).total_seconds() >= 2
            (pid,) = pids(file)
            eventually(partial(is_gone, pid), "the child's end")
            eventually(house.no_scratch_left, "the end of the attempt")
            # and the worker goes on
            house.wait(accept(house, input={"how": "finish"}), State.SUCCEEDED)
        assert house.events(job)[-1].type == "failed"
        assert "attempt 1 says hello" in house.log(job, 1)
    said = (house.settings.data_dir / "worker.log").read_text()
    assert "event=job_expired" in said and "event=job_ended_meanwhile" in said
    for misleading in ("job_taken_back", "lease_lost", "log_not_stored"):
        assert misleading not in said


def test_a_job_that_no_worker_may_take(house: House) -> None:
    job = accept(house, input={}, device_class="cuda", max_pending_s=1)
    with worker_process(house.settings.model_copy(update={"device": "cpu"})):
        ended = house.wait(job, State.FAILED)
    assert ended.error is not None
    assert (ended.error["code"], ended.attempt) == ("max_pending_exceeded", 0)


@pytest.mark.parametrize("leaks", ["raise", "user_error"])
def test_a_child_that_tells_its_token(house: House, leaks: str) -> None:
    job = accept(house, token=CANARY, input={"leaks": leaks})
    with worker_process(house.settings):
        ended = house.wait(job, State.FAILED)
        eventually(house.no_scratch_left, "the end of the attempt")
    assert ended.error is not None
    assert "no access with [redacted]" in ended.error["message"]
    (block,) = (event for event in house.events(job) if event.type == "block")
    assert block.data == {"note": ["with [redacted]", {"[redacted]": 1}]}
    assert "the token is [redacted]" in house.log(job, 1)
    with house.database.read() as connection:
        assert connection.execute(job_secrets.select()).all() == []
        found = [connection.execute(table.select()).all() for table in metadata.sorted_tables]
    assert CANARY not in repr(found) + house.log(job, 1)
    files = [path for path in house.settings.data_dir.rglob("*") if path.is_file()]
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
