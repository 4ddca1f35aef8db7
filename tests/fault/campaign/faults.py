"""What is done to a service while a job is held at a point.

A fault gets the stage, the process that is held and the id of the job, and returns when it is
over as far as it is to be over: `Stage.heal` mends the rest.
"""

import errno
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobs import doorbell
from jobs.job import Job
from jobs.states import State
from tests.columns import EMBEDDED, PRODUCTION
from tests.fault.campaign import points
from tests.fault.campaign.points import CANCELLING, IN_API, IN_CHILD, IN_WORKER, MADE
from tests.fault.campaign.stage import Stage
from tests.fault.worker.support import eventually, lose_the_broker

LOCKED_S = 2.0  # a write that takes longer is a stopped one
HELD = (*IN_CHILD, *IN_WORKER, CANCELLING)  # a worker holds the job
ANYWHERE = (IN_API, *HELD)
STORING = ("quantizing", "packaging", "uploading")  # objects are stored right after it

Inject = Callable[[Stage, psutil.Process, Job], None]


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Inject
    points: tuple[str, ...]
    columns: tuple[str, ...] = (EMBEDDED, PRODUCTION)


def kill_child(stage: Stage, held: psutil.Process, job: Job) -> None:
    held.kill()


def kill_worker(stage: Stage, held: psutil.Process, job: Job) -> None:
    worker = stage.worker_of(held)
    worker.kill()
    worker.wait()


def kill_group(stage: Stage, held: psutil.Process, job: Job) -> None:
    worker = stage.worker_of(held)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def kill_api(stage: Stage, held: psutil.Process, job: Job) -> None:
    stage.parts["api"].kill()
    stage.parts["api"].wait()


def freeze_worker(stage: Stage, held: psutil.Process, job: Job) -> None:
    """Past its lease; it wakes up while another worker has the job, or after a cancelled job's
    end, and goes on as if nothing had been."""
    worker = stage.worker_of(held)
    points.arm(stage.points, MADE)
    _suspend(stage, worker)
    if stage.house.get(job).state == State.CANCELLING:
        eventually(lambda: stage.house.get(job).is_terminal, "the end by another worker")
    else:
        stage.held(MADE)
    _wake(stage, worker, held, job)


def freeze_past_deletion(stage: Stage, held: psutil.Process, job: Job) -> None:
    """It wakes up when the job was ended by another, deleted and swept."""
    worker = stage.worker_of(held)
    _suspend(stage, worker)
    eventually(lambda: stage.house.get(job).is_terminal, "the end by another worker")
    stage.http.delete(f"/jobs/{job.id}").raise_for_status()
    eventually(lambda: not stage.rows(), "the deletion")
    _wake(stage, worker, held, job)


def _suspend(stage: Stage, worker: psutil.Process) -> None:
    """On SQLite between two writes: who is stopped in the middle of one keeps the lock of the
    whole database, and nobody gets on before it wakes up. PostgreSQL ends such a transaction."""
    worker.suspend()
    while stage.servers is None and _is_locked(stage.data_dir / "apiq.db"):
        worker.resume()
        time.sleep(0.1)
        worker.suspend()


def _is_locked(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=LOCKED_S)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


def _wake(stage: Stage, worker: psutil.Process, held: psutil.Process, job: Job) -> None:
    points.release(stage.points, held.pid)  # its child, or itself
    worker.resume()
    eventually(lambda: stage.heard_of_its_loss(job), "that it learns of its loss")


def lose_messages(stage: Stage, held: psutil.Process, job: Job) -> None:
    lose_the_broker(stage.house)


def ring_ten_times(stage: Stage, held: psutil.Process, job: Job) -> None:
    for _ in range(10):
        doorbell.ring(stage.house.settings, job)


def restart_redis(stage: Stage, held: psutil.Process, job: Job) -> None:
    assert stage.servers is not None
    stage.away(stage.servers.redis)


def restart_postgresql(stage: Stage, held: psutil.Process, job: Job) -> None:
    assert stage.servers is not None
    stage.away(stage.servers.postgres)


def cut_postgresql(stage: Stage, held: psutil.Process, job: Job) -> None:
    assert stage.servers is not None
    name = stage.house.settings.database_url.rpartition("/")[2]
    stage.servers.postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )


def s3_answers_500(stage: Stage, held: psutil.Process, job: Job) -> None:
    assert stage.proxy is not None
    stage.proxy.errors = 8  # two uploads fail, with all their tries
    stage.storing(job)


def s3_is_slow(stage: Stage, held: psutil.Process, job: Job) -> None:
    assert stage.proxy is not None
    stage.proxy.slow = 40
    stage.storing(job)


def s3_is_cut(stage: Stage, held: psutil.Process, job: Job) -> None:
    assert stage.proxy is not None
    stage.proxy.cuts = 6
    stage.storing(job)


def fill_scratch(stage: Stage, held: psutil.Process, job: Job) -> None:
    """Until an attempt was lost by it, or the job has ended all the same."""
    try:
        with stage.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024 * 1024))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    points.let_go(stage.points)
    eventually(lambda: {"retrying", "succeeded"} & set(stage.house.event_types(job)), "a full disk")


FAULTS = (
    Fault("the child is killed", kill_child, (*IN_CHILD, CANCELLING)),
    Fault("the worker is killed", kill_worker, ANYWHERE),
    Fault("the worker's process group is killed", kill_group, HELD),
    Fault("the API is killed", kill_api, ANYWHERE),
    Fault("the worker is stopped past its lease", freeze_worker, HELD),
    Fault(
        "the worker is stopped past its lease and the job's deletion", freeze_past_deletion, HELD
    ),
    Fault("every message is lost", lose_messages, ANYWHERE),
    Fault("the doorbell rings ten times more", ring_ten_times, ANYWHERE),
    Fault("the scratch disk is full", fill_scratch, (*IN_CHILD, "uploading")),
    Fault("Redis restarts", restart_redis, ANYWHERE, (PRODUCTION,)),
    Fault("PostgreSQL restarts", restart_postgresql, ANYWHERE, (PRODUCTION,)),
    Fault("PostgreSQL cuts its connections", cut_postgresql, ANYWHERE, (PRODUCTION,)),
    Fault("S3 answers 500", s3_answers_500, STORING, (PRODUCTION,)),
    Fault("S3 is slow", s3_is_slow, STORING, (PRODUCTION,)),
    Fault("S3 cuts uploads in the middle of a part", s3_is_cut, STORING, (PRODUCTION,)),
)


def expected_state(point: str) -> State:
    return State.CANCELLED if point == CANCELLING else State.SUCCEEDED
