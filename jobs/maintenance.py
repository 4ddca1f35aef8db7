"""The sweeper's side of the records: what happens to jobs that nobody looks after.

Every function works in the caller's transaction.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, or_, select, update

from jobs import chains, leases, repository
from jobs.clock import from_now, now
from jobs.errors import JobInUse
from jobs.job import Job
from jobs.rows import change, job_from_row
from jobs.schema import checkpoints, datasets, jobs, leaders
from jobs.settings import Settings
from jobs.states import HELD, TERMINAL, State

SWEEP = "sweep"  # the task in `leaders`
BATCH = 100  # rows of one transaction, so that no writer waits long

# after this many grace periods a cancelled job ends even if its worker still beats
CANCEL_GRACES = 3

EXPIRED = ("max_pending_exceeded", "max_runtime_exceeded")  # codes of jobs that ran out of time

WORKER_LOST = {
    "code": "worker_lost",
    "message": "the worker fell silent while it ran this job",
    "fault": "infra",
    "retryable": True,
}


DAY_S = 24 * 3600


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    taken_back: list[Job]  # from workers or from the queue; some have ended by that
    to_clear: list[Job]  # they have ended, and still have checkpoints
    deleted_jobs: list[str]  # ids: remove their objects, then forget them
    deleted_datasets: list[str]


def lead(connection: Connection, worker_id: str, ttl_s: float) -> bool:
    """Become or stay the worker that sweeps, for `ttl_s`; false if another one is."""
    statement = (
        update(leaders)
        .where(
            leaders.c.task == SWEEP,
            or_(leaders.c.worker_id == worker_id, leaders.c.until < now()),
        )
        .values(worker_id=worker_id, until=from_now(ttl_s))
    )
    return connection.execute(statement).rowcount == 1


def sweep(connection: Connection, settings: Settings) -> Swept:
    """Take lapsed leases back, end what is overdue, find what is to be removed."""
    taken_back: list[Job] = []
    lapsed = jobs.c.lease_until < _once(now())
    for job in _pick(connection, jobs.c.state == State.RUNNING, lapsed):
        taken_back.append(leases.lose(connection, job, WORKER_LOST, settings))
    overdue = jobs.c.cancel_requested_at < from_now(-CANCEL_GRACES * settings.cancel_grace_s)
    for job in _pick(connection, jobs.c.state == State.CANCELLING, or_(lapsed, overdue)):
        taken_back.append(leases.cancelled(connection, job.id, job.attempt))
    # not `state in (queued, running)`: SQLite would rather read the whole queue
    goes_on = jobs.c.state != State.CANCELLING
    for job in _pick(connection, jobs.c.expires_at < _once(now()), goes_on):
        taken_back.append(_expire(connection, job))
    if settings.retention_days is not None:
        oldest = _once(from_now(-settings.retention_days * DAY_S))
        for job in _pick(connection, jobs.c.finished_at < oldest, jobs.c.deleted_at.is_(None)):
            with suppress(JobInUse), connection.begin_nested():
                repository.delete(connection, job.id)
    has_checkpoints = jobs.c.id.in_(select(checkpoints.c.job_id))
    return Swept(
        taken_back,
        _pick(connection, jobs.c.state.in_(TERMINAL), has_checkpoints),
        [job.id for job in _pick(connection, jobs.c.deleted_at.is_not(None))],
        list(
            connection.scalars(
                select(datasets.c.id).where(datasets.c.deleted_at <= now()).limit(BATCH)
            )
        ),
    )


def expire_waiting(connection: Connection) -> list[Job]:
    """End jobs that no worker ever took up in time: the part of a sweep that needs no store."""
    # who has a limit has not ended, and without an attempt waits; of the state SQLite knows an
    # index that it would rather read
    overdue = _pick(connection, jobs.c.expires_at < _once(now()), jobs.c.attempt == 0)
    return [_expire(connection, job) for job in overdue]


def forget_job(connection: Connection, job_id: str) -> None:
    """Remove the row of a deleted job whose objects are gone, with all that belongs to it."""
    gone = (jobs.c.deleted_at.is_not(None), jobs.c.state.in_(TERMINAL))
    connection.execute(delete(jobs).where(jobs.c.id == job_id, *gone))


def forget_dataset(connection: Connection, dataset_id: str) -> None:
    """Remove the row of a deleted dataset whose text is gone."""
    connection.execute(
        delete(datasets).where(datasets.c.id == dataset_id, datasets.c.deleted_at <= now())
    )


def is_held(connection: Connection, job_id: str, attempt: int) -> bool:
    """Whether this attempt still has the job."""
    query = select(jobs.c.id).where(
        jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(HELD)
    )
    return connection.execute(query).scalar() is not None


def _expire(connection: Connection, job: Job) -> Job:
    """End a job whose time is over; whoever runs it notices at the next beat."""
    if job.attempt == 0:
        error = {
            "code": "max_pending_exceeded",
            "message": f"no worker took this job up within {job.max_pending_s} s",
            "param": "max_pending_s",
            "fault": "service",
            "retryable": True,
        }
    else:
        error = {
            "code": "max_runtime_exceeded",
            "message": f"{job.max_runtime_s} s after its start this job had not ended",
            "param": "max_runtime_s",
            "fault": "user",
            "retryable": True,
        }
    ended = change(
        connection,
        jobs.c.id == job.id,
        to=State.FAILED,
        events=[("failed", {"error": error})],
        values={"error": error},
    )
    assert ended is not None  # this transaction has locked the row
    chains.settle(connection, ended)
    return ended


def _once(moment: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """Read before the search: PostgreSQL searches no index for what may change meanwhile."""
    return select(moment).scalar_subquery()


def _pick(connection: Connection, *conditions: ColumnElement[bool]) -> list[Job]:
    """Rows to change in this transaction; rows that somebody else is changing are left alone."""
    query = (
        select(jobs)
        .where(*conditions)
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    return [job_from_row(row) for row in connection.execute(query)]
