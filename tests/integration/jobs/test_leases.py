"""Claims and the fence: a stale attempt changes nothing."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from jobs import checkpoints, leases, maintenance, repository
from jobs.artifacts import Stored
from jobs.database import Database
from jobs.errors import CancelRequested, LeaseLost
from jobs.job import Artifact, Job
from jobs.settings import Settings
from jobs.states import State
from tests.integration.jobs.test_repository import accept, event_types

ERROR = {"code": "worker_crashed", "message": "it broke", "fault": "infra", "retryable": True}
STORED = Stored(1, "0" * 64)
FILE = Artifact("model/x", 1, "0" * 64, "text/plain", "jobs/j/attempts/1/files/model/x")


def claim(database: Database, ttl_s: float = 60, device_class: str = "cpu") -> Job:
    with database.begin() as connection:
        job = leases.claim(connection, worker_id="w", device_class=device_class, lease_ttl_s=ttl_s)
    assert job is not None
    return job


def get(database: Database, job: Job) -> Job:
    with database.read() as connection:
        return repository.get(connection, job.id)


def lapse(database: Database, job: Job) -> None:
    """Let the lease end now."""
    with database.begin() as connection:
        connection.execute(text("UPDATE jobs SET lease_until = 0 WHERE id = :id"), {"id": job.id})


def sweep(database: Database, settings: Settings) -> maintenance.Swept:
    with database.begin() as connection:
        return maintenance.sweep(connection, settings)


def test_priority_then_age(database: Database) -> None:
    old, young, urgent = accept(database), accept(database), accept(database, priority=5)
    assert [claim(database).id for _ in range(3)] == [urgent.id, old.id, young.id]


def test_only_what_the_device_may_run(database: Database) -> None:
    job = accept(database, device_class="cuda")
    with database.begin() as connection:
        for_cpu = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
        assert for_cpu is None
    assert claim(database, device_class="cuda").id == job.id


def test_a_claim_holds_the_job_by_the_databases_clock(database: Database) -> None:
    accept(database)
    job = claim(database, ttl_s=60)
    assert job.lease_until is not None and job.started_at is not None
    assert (job.state, job.attempt, job.worker_id) == (State.RUNNING, 1, "w")
    assert 59 < (job.lease_until - job.started_at).total_seconds() <= 61


def test_one_of_many_workers_gets_it(database: Database) -> None:
    wanted = {accept(database).id for _ in range(60)}
    claimed: list[str] = []

    def work() -> None:
        while True:
            with database.begin() as connection:
                job = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
            if job is None:
                return
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 60
    assert set(claimed) == wanted


Write = Callable[[Connection, Job, Settings], Any]
WRITES: dict[str, Write] = {
    "beat": lambda c, j, s: leases.beat(c, j.id, j.attempt, 60),
    "look": lambda c, j, s: leases.look(c, j.id, j.attempt),
    "record": lambda c, j, s: leases.record(c, j.id, j.attempt, [("block", {})], phase="x"),
    "publish": lambda c, j, s: leases.publish(c, j.id, j.attempt, [FILE], {}),
    "fail": lambda c, j, s: leases.fail(c, j.id, j.attempt, ERROR),
    "requeue": lambda c, j, s: leases.requeue(c, j.id, j.attempt, "drained"),
    "lose": lambda c, j, s: leases.lose(c, j, ERROR, s),
    "checkpoint": lambda c, j, s: checkpoints.record(c, j.id, j.attempt, 0, "key", STORED),
    "drop": lambda c, j, s: checkpoints.drop(c, j.id, j.attempt, 0),
    "cancelled": lambda c, j, s: leases.cancelled(c, j.id, j.attempt),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("now", ["queued", "running", "cancelling", "succeeded"])
def test_a_stale_attempt_changes_nothing(
    database: Database, settings: Settings, write: Write, now: str
) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": 0.0})
    accept(database)
    stale = claim(database)
    with database.begin() as connection:
        checkpoints.record(connection, stale.id, 1, 0, "kept", STORED)
    lapse(database, stale)
    sweep(database, settings)
    if now != "queued":
        assert claim(database).attempt == 2
    with database.begin() as connection:
        if now == "cancelling":
            repository.request_cancel(connection, stale.id)
        if now == "succeeded":
            leases.publish(connection, stale.id, 2, [replace(FILE, path="model/y")], {})
    before, history = get(database, stale), event_types(database, stale)
    with pytest.raises(LeaseLost), database.begin() as connection:
        write(connection, stale, settings)
    assert get(database, stale) == before
    assert event_types(database, stale) == history
    with database.read() as connection:
        paths = [file.path for file in repository.artifacts_of(connection, stale.id)]
        kept = [checkpoint.key for checkpoint in checkpoints.of_job(connection, stale.id)]
    assert paths == (["model/y"] if now == "succeeded" else [])
    assert kept == ["kept"]


@pytest.mark.parametrize("name", ["publish", "fail", "requeue", "lose"])
def test_a_cancel_comes_before_any_other_end(
    database: Database, settings: Settings, name: str
) -> None:
    accept(database)
    job = claim(database)
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
    with pytest.raises(CancelRequested), database.begin() as connection:
        WRITES[name](connection, job, settings)
    with database.begin() as connection:
        leases.cancelled(connection, job.id, job.attempt)
    assert get(database, job).state == State.CANCELLED
    assert event_types(database, job) == ["accepted", "started", "cancelling", "cancelled"]


def test_publishing_shows_files_and_metrics_at_once(database: Database) -> None:
    accept(database)
    job = claim(database)
    with database.begin() as connection:
        done = leases.publish(connection, job.id, 1, [FILE], {"bits": 2})
    assert (done.state, done.metrics, done.lease_until, done.phase) == (
        State.SUCCEEDED,
        {"bits": 2},
        None,
        None,
    )
    with database.read() as connection:
        assert repository.artifacts_of(connection, job.id) == [FILE]


def test_a_drain_costs_no_retry_and_no_pause(database: Database) -> None:
    accept(database)
    for attempt in range(1, 6):
        job = claim(database)
        assert (job.attempt, job.infra_losses) == (attempt, 0)
        with database.begin() as connection:
            leases.requeue(connection, job.id, job.attempt, "drained")


def test_losses_pause_ever_longer_and_then_fail(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": 30.0})
    accept(database)
    for losses, pause_s in ((1, 30), (2, 60)):
        job = claim(database)
        assert job.last_loss is None
        with database.begin() as connection:
            lost = leases.lose(connection, job, ERROR, settings)
            assert (lost.state, lost.infra_losses, lost.error) == (State.QUEUED, losses, None)
            more = {"block": 0, "losses": losses, "pause_seconds": pause_s}
            assert lost.last_loss == ERROR | more
            none = leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
            assert none is None  # not before the pause is over
            events = repository.events_after(connection, job.id)
            assert events[-1].type == "retrying"
            assert events[-1].data["pause_seconds"] == pause_s
            connection.exec_driver_sql("UPDATE jobs SET run_after = 0")
    job = claim(database)
    with database.begin() as connection:
        failed = leases.lose(connection, job, ERROR, settings)
    assert (failed.state, failed.last_loss) == (State.FAILED, None)
    assert failed.error == ERROR | {
        "message": "it broke; 3 times at block 0",
        "losses": 3,
        "block": 0,
    }


@pytest.mark.parametrize("code", leases.OUTAGES)
def test_ten_minutes_of_an_outage_end_no_job(
    database: Database, settings: Settings, code: str
) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": Settings().retry_backoff_s})
    accept(database)
    paused_s = 0.0
    for _ in range(settings.max_infra_losses - 1):
        job = claim(database)
        with database.begin() as connection:
            assert leases.lose(connection, job, ERROR | {"code": code}, settings).state == "queued"
            paused_s += repository.events_after(connection, job.id)[-1].data["pause_seconds"]
            connection.exec_driver_sql("UPDATE jobs SET run_after = 0")
    assert paused_s >= 600


def test_a_loss_at_a_later_block_is_a_first_one(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": 0.0})
    accept(database)
    seen = []
    # blocks that each attempt gets done before it is lost
    for done in (2, 0, 1, 0, 0):
        job = claim(database)
        with database.begin() as connection:
            leases.record(connection, job.id, job.attempt, phase="quantizing")
            first = len(checkpoints.of_job(connection, job.id))
            for block in range(first, first + done):
                checkpoints.record(connection, job.id, job.attempt, block, "key", STORED)
            job = leases.lose(connection, job, ERROR, settings)
        seen.append((job.loss_block, job.infra_losses, job.state))
    assert seen == [
        (2, 1, State.QUEUED),
        (2, 2, State.QUEUED),
        (3, 1, State.QUEUED),
        (3, 2, State.QUEUED),
        (3, 3, State.FAILED),
    ]
    assert job.error is not None
    assert job.error["block"] == 3
    assert job.error["message"] == "it broke; 3 times at block 3, quantizing"


def test_two_kinds_of_machine_that_undo_each_others_blocks_come_to_an_end(
    database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": 0.0})
    accept(database)
    for done in (6, 4, 6):  # each starts over, as it may not take the other's blocks
        job = claim(database)
        with database.begin() as connection:
            for block in range(done):
                checkpoints.record(connection, job.id, job.attempt, block, "key", STORED)
            job = leases.lose(connection, job, ERROR, settings)
    assert (job.state, job.loss_block) == (State.FAILED, 6)


def test_checkpoints_come_in_order_and_replace_what_follows(database: Database) -> None:
    accept(database)
    job = claim(database)

    def blocks() -> list[tuple[int, str]]:
        with database.read() as connection:
            return [(c.block, c.key) for c in checkpoints.of_job(connection, job.id)]

    with database.begin() as connection:
        for block in range(12):
            checkpoints.record(connection, job.id, 1, block, f"a/{block}", STORED)
    assert blocks() == [(block, f"a/{block}") for block in range(12)]
    with database.begin() as connection:
        checkpoints.record(connection, job.id, 1, 3, "b/3", STORED)
    assert blocks() == [(0, "a/0"), (1, "a/1"), (2, "a/2"), (3, "b/3")]
    with database.begin() as connection:
        checkpoints.drop(connection, job.id, 1, 1)
    assert blocks() == [(0, "a/0")]


def test_checkpoints_of_ended_jobs_are_found(database: Database, settings: Settings) -> None:
    kept, ended = accept(database), accept(database)
    for job in [claim(database), claim(database)]:
        with database.begin() as connection:
            checkpoints.record(connection, job.id, 1, 0, "key", STORED)
            leases.requeue(connection, job.id, 1, "drained")
            if job.id == ended.id:
                repository.request_cancel(connection, job.id)
    assert [job.id for job in sweep(database, settings).to_clear] == [ended.id]
    with database.begin() as connection:
        checkpoints.forget(connection, ended.id)
        assert len(checkpoints.of_job(connection, kept.id)) == 1
    assert sweep(database, settings).to_clear == []


def test_a_live_lease_is_left_alone(database: Database, settings: Settings) -> None:
    accept(database)
    job = claim(database)
    assert sweep(database, settings) == maintenance.Swept([], [], [], [])
    assert get(database, job) == job


def test_a_beat_saves_a_lease_that_was_about_to_lapse(
    database: Database, settings: Settings
) -> None:
    accept(database)
    job = claim(database)
    lapse(database, job)
    with database.begin() as connection:
        leases.beat(connection, job.id, job.attempt, 60)
    sweep(database, settings)
    assert get(database, job).state == State.RUNNING


def test_three_lost_workers_fail_a_job(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"retry_backoff_s": 0.0})
    accept(database)
    for _ in range(3):
        job = claim(database)
        lapse(database, job)
        swept = sweep(database, settings)
    failed = get(database, job)
    assert failed.state == State.FAILED
    assert failed.error is not None
    assert (failed.error["code"], failed.error["losses"]) == ("worker_lost", 3)
    assert swept.taken_back == [failed]


def test_a_cancel_ends_though_the_worker_is_gone(database: Database, settings: Settings) -> None:
    accept(database)
    job = claim(database)
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
    sweep(database, settings)
    assert get(database, job).state == State.CANCELLING  # the worker still has its time
    lapse(database, job)
    assert [ended.state for ended in sweep(database, settings).taken_back] == [State.CANCELLED]


def test_a_cancel_ends_though_the_worker_beats_on(database: Database, settings: Settings) -> None:
    accept(database)
    job = claim(database)
    with database.begin() as connection:
        repository.request_cancel(connection, job.id)
        connection.exec_driver_sql("UPDATE jobs SET cancel_requested_at = 0")
    sweep(database, settings)
    with pytest.raises(LeaseLost), database.begin() as connection:
        leases.beat(connection, job.id, job.attempt, 60)
    assert get(database, job).state == State.CANCELLED


def test_one_leader_until_it_falls_silent(database: Database) -> None:
    with database.begin() as connection:
        assert maintenance.lead(connection, "first", 60)
        assert not maintenance.lead(connection, "second", 60)
        assert maintenance.lead(connection, "first", -1)  # it fell silent
        assert maintenance.lead(connection, "second", 60)
        assert not maintenance.lead(connection, "first", 60)
