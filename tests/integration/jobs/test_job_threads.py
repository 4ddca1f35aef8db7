"""Eight at once do anything to the same few jobs; afterwards what always holds still does."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event

from jobs import checkpoints, leases, maintenance, repository
from jobs.artifacts import MANIFEST, Stored, block_key
from jobs.database import Database
from jobs.errors import JobError
from jobs.job import Artifact, Job
from jobs.repository import NewJob
from jobs.settings import Settings
from jobs.states import State
from tests.integration.jobs import job_rows

THREADS = 8
DURATION_S = 4.0
MAX_EXTRA_S = 20.0
LEASE_TTL_S = 0.1
ERROR = {"code": "it_broke", "message": "it broke", "fault": "infra", "retryable": True}
STORED = Stored(size_bytes=1, sha256="0" * 64)


def claim(connection: Connection) -> Job | None:
    return leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=LEASE_TTL_S)


def publish(connection: Connection, held: Job) -> None:
    key = f"jobs/j/attempts/{held.attempt}/{MANIFEST}"
    files = [Artifact(MANIFEST, 1, "0" * 64, "text/plain", key)]
    leases.publish(connection, held.id, held.attempt, files, {})


def checkpoint(connection: Connection, held: Job) -> None:
    key = block_key(held.id, held.attempt, 0)
    checkpoints.record(connection, held.id, held.attempt, 0, key, STORED)


# what the holder of an attempt may do, whether it still holds it or not
AS_HOLDER: list[Callable[[Connection, Job], Any]] = [
    lambda c, j: leases.beat(c, j.id, j.attempt, LEASE_TTL_S),
    lambda c, j: leases.record(c, j.id, j.attempt, [("block", {})] * 2, phase="quantizing"),
    lambda c, j: leases.requeue(c, j.id, j.attempt, "drained"),
    lambda c, j: leases.fail(c, j.id, j.attempt, ERROR),
    lambda c, j: leases.cancelled(c, j.id, j.attempt),
    publish,
    publish,
    checkpoint,
]


def test_eight_at_once(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(
        update={"retry_backoff_s": 0.01, "cancel_grace_s": 0.05, "max_infra_losses": 1000}
    )
    accepted: list[str] = []
    claimed: list[Job] = []
    cancels: list[str] = []  # who asked was told that the job will be cancelled
    published: list[str] = []

    def take(chance: random.Random) -> None:
        with database.begin() as connection:
            job = claim(connection)
        if job is not None:
            claimed.append(job)

    def submit(chance: random.Random) -> None:
        with database.begin() as connection:
            job = repository.accept(connection, type="quantize", input={})
        accepted.append(job.id)

    def submit_chain(chance: random.Random) -> None:
        base, job = chain()
        with database.begin() as connection:
            repository.accept_all(connection, [base, job])
        accepted.extend((base.id, job.id))

    def hold(chance: random.Random) -> None:
        held, write = chance.choice(claimed[-THREADS:]), chance.choice(AS_HOLDER)
        with database.begin() as connection:
            write(connection, held)
        if write is publish:  # it was committed
            published.append(held.id)

    def cancel(chance: random.Random) -> None:
        wanted = chance.choice(accepted[-THREADS:])
        with database.begin() as connection:
            repository.request_cancel(connection, wanted)
        cancels.append(wanted)

    def sweep(chance: random.Random) -> None:
        with database.begin() as connection:
            maintenance.sweep(connection, settings)

    def crowded() -> bool:
        return min(len(cancels), len(published), len(claimed)) > 1

    def work(seed: int) -> None:
        chance, end = random.Random(seed), time.monotonic() + DURATION_S
        # on a busy machine it takes longer until there was a crowd
        while (now := time.monotonic()) < end or (now < end + MAX_EXTRA_S and not crowded()):
            act = chance.choice([submit, submit_chain, *[take, hold] * 3, cancel, sweep])
            with suppress(JobError):
                act(chance)

    chance = random.Random(0)
    while not claimed:
        submit(chance)
        take(chance)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    finish(database, settings)

    rows = job_rows.read(database)
    assert sorted(rows) == sorted(accepted)
    for found in rows.values():
        job_rows.check(found)
        started = [e["data"]["attempt"] for e in found.events if e["type"] == "started"]
        assert started == list(range(1, found.job["attempt"] + 1))
    assert {rows[job].job["state"] for job in cancels} <= {State.CANCELLED}
    assert len(published) == len(set(published))
    assert {rows[job].job["state"] for job in published} <= {State.SUCCEEDED}
    for waited in (found for found in rows.values() if "base" in found.job["input"]):
        base = rows[waited.job["input"]["base"]].job
        if waited.job["attempt"]:
            assert base["state"] == State.SUCCEEDED
            assert waited.job["started_at"] >= base["finished_at"]
        elif waited.job["state"] == State.FAILED:
            assert base["state"] in (State.FAILED, State.CANCELLED)
    assert crowded()


def chain() -> tuple[NewJob, NewJob]:
    base = NewJob("quantize", {})
    job = NewJob("finetune", {"base": base.id}, waits_for=base.id)
    return replace(base, made_for=job.id), job


def finish(database: Database, settings: Settings) -> None:
    """A worker that never fails, until nothing is left to do."""
    deadline = time.monotonic() + 20
    while True:
        with database.begin() as connection:
            maintenance.sweep(connection, settings)
            while job := claim(connection):
                publish(connection, job)
        if all(found.job["finished_at"] for found in job_rows.read(database).values()):
            return
        assert time.monotonic() < deadline
        time.sleep(LEASE_TTL_S)


@pytest.mark.column("production")
def test_a_cancel_finds_a_job_that_is_just_drained(database: Database) -> None:
    """The job goes back to the queue after the cancel looked for it there."""
    with database.begin() as connection:
        job = repository.accept(connection, type="quantize", input={})
        leases.claim(connection, worker_id="w", device_class="cpu", lease_ttl_s=60)
    statements = []

    with ThreadPoolExecutor(1) as pool, database.begin() as connection:

        @event.listens_for(connection, "after_cursor_execute")
        def _(*rest: Any) -> None:
            statements.append(rest[2])
            if "FOR UPDATE" in rest[2] and not any("FOR UPDATE" in s for s in statements[:-1]):
                drained = pool.submit(drain)
                with suppress(TimeoutError):  # it may have to wait for the cancel
                    drained.result(timeout=0.5)

        def drain() -> None:
            with suppress(JobError), database.begin() as other:
                leases.requeue(other, job.id, 1, "drained")

        answer = repository.request_cancel(connection, job.id)
    assert answer.state in (State.CANCELLING, State.CANCELLED)
