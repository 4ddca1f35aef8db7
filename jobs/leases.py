"""The workers' side of the records: claim a job, keep it, write under the fence, end it.

`attempt` is the fencing token. Every write says `WHERE id = ... AND attempt = ... AND state ...`;
if no row fits, another attempt has the job, or nobody: `LeaseLost`, and nothing was changed.
Every function works in the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select, update

from jobs import chains, quotas
from jobs.clock import from_now, now
from jobs.errors import CancelRequested, LeaseLost
from jobs.job import Artifact, Job
from jobs.repository import ANY_DEVICE
from jobs.rows import NewEvent, change
from jobs.schema import artifacts, checkpoints, jobs
from jobs.settings import Settings
from jobs.states import HELD, State

MAX_BACKOFF_S = 300.0
MAX_DOUBLINGS = 10
# what is away says nothing against the job, and stays away for minutes: with the default settings
# the longest pause at once, so that 10 minutes end no job
OUTAGE_FACTOR = 60.0
OUTAGES = ("hub_unreachable", "store_unavailable", "database_unavailable")


@dataclass(frozen=True)
class Beat:
    """What the holder of a lease is told."""

    cancel: bool


def claim(
    connection: Connection,
    *,
    worker_id: str,
    device_class: str,
    lease_ttl_s: float,
    max_running_jobs: int | None = None,
) -> Job | None:
    """Take the best runnable job that this device class may run: priority, then age.

    With `max_running_jobs`, an owner who has so many running has to wait for one to end.
    """
    runnable = [
        jobs.c.state == State.QUEUED,
        jobs.c.waits_for.is_(None),
        jobs.c.run_after <= now(),
        or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > now()),
        jobs.c.device_class.in_([ANY_DEVICE, device_class]),
    ]
    if max_running_jobs is not None:
        quotas.lock_all(connection)
        runnable.append(jobs.c.owner.not_in(quotas.owners_running(max_running_jobs)))
    best = (
        select(jobs.c.id, jobs.c.attempt, jobs.c.max_runtime_s)
        .where(*runnable)
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the transaction is alone
    )
    row = connection.execute(best).one_or_none()
    if row is None:
        return None
    attempt = row.attempt + 1
    values: dict[str, Any] = {
        "attempt": attempt,
        "lease_until": from_now(lease_ttl_s),
        "worker_id": worker_id,
        "progress": None,
    }
    if attempt == 1:
        limit_s = row.max_runtime_s
        values |= {
            "started_at": now(),
            "expires_at": None if limit_s is None else from_now(limit_s),
        }
    started = ("started", {"attempt": attempt, "worker": worker_id})
    return change(
        connection, jobs.c.id == row.id, to=State.RUNNING, events=[started], values=values
    )


def beat(connection: Connection, job_id: str, attempt: int, lease_ttl_s: float) -> Beat:
    """Renew the lease; the answer says whether a cancel was asked for. Raises `LeaseLost`."""
    statement = (
        update(jobs)
        .where(*_held(job_id, attempt))
        .values(lease_until=from_now(lease_ttl_s))
        .returning(jobs.c.state)
    )
    return _answer(connection.execute(statement).scalar(), job_id, attempt)


def look(connection: Connection, job_id: str, attempt: int) -> Beat:
    """The answer of a beat without renewing the lease: reads only. Raises `LeaseLost`."""
    query = select(jobs.c.state).where(*_held(job_id, attempt))
    return _answer(connection.execute(query).scalar(), job_id, attempt)


def record(
    connection: Connection,
    job_id: str,
    attempt: int,
    events: Sequence[NewEvent] = (),
    *,
    phase: str | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Append events and show phase and progress; what is None stays. Raises `LeaseLost`."""
    values: dict[str, Any] = {}
    if phase is not None:
        values["phase"] = phase
    if progress is not None:
        values["progress"] = dict(progress)
    if change(connection, *_held(job_id, attempt), events=events, values=values) is None:
        raise _lost(job_id, attempt)


def publish(
    connection: Connection,
    job_id: str,
    attempt: int,
    files: Sequence[Artifact],
    metrics: Mapping[str, Any],
) -> Job:
    """Make the files visible and end the job `succeeded`: one commit, in which those that waited
    for it may go on.

    Raises `CancelRequested` if a cancel came first, `LeaseLost`.
    """
    job = _end(
        connection,
        job_id,
        attempt,
        State.SUCCEEDED,
        [("succeeded", {"files": len(files)})],
        {"metrics": dict(metrics)},
    )
    for file in files:
        connection.execute(insert(artifacts).values(job_id=job_id, **vars(file)))
    chains.settle(connection, job)
    return job


def fail(connection: Connection, job_id: str, attempt: int, error: Mapping[str, Any]) -> Job:
    """End the job `failed`: trying again cannot help. Raises `CancelRequested`, `LeaseLost`."""
    values = {"error": dict(error)}
    return _end(
        connection, job_id, attempt, State.FAILED, [("failed", {"error": dict(error)})], values
    )


def cancelled(connection: Connection, job_id: str, attempt: int) -> Job:
    """End a cancelling job. Raises `LeaseLost`."""
    return _end(connection, job_id, attempt, State.CANCELLED, [("cancelled", {})])


def requeue(connection: Connection, job_id: str, attempt: int, reason: str) -> Job:
    """Give the job back unharmed, as a drained worker does: no loss is counted.

    Raises `CancelRequested`, `LeaseLost`.
    """
    events = [("requeued", {"reason": reason})]
    return _end(connection, job_id, attempt, State.QUEUED, events, {"run_after": now()})


def lose(connection: Connection, job: Job, error: Mapping[str, Any], settings: Settings) -> Job:
    """The machines failed this attempt: queue the job again after a pause, or fail it.

    Losses count as long as the job gets no further: a loss at a later block is a first one.
    Raises `CancelRequested`, `LeaseLost`.
    """
    block, phase = _where_it_was(connection, job.id)
    if job.loss_block is None or block > job.loss_block:
        losses = 1
    else:
        block, losses = job.loss_block, job.infra_losses + 1
    counted: dict[str, Any] = {"infra_losses": losses, "loss_block": block}
    if losses >= settings.max_infra_losses:
        where = f"{losses} times at block {block}" + (f", {phase}" if phase else "")
        message = f"{error['message']}; {where}"
        final = {**error, "message": message, "losses": losses, "block": block}
        events: list[NewEvent] = [("failed", {"error": final})]
        return _end(
            connection, job.id, job.attempt, State.FAILED, events, counted | {"error": final}
        )
    pause_s = backoff_s(losses, settings, is_outage=error["code"] in OUTAGES)
    data = {"error": dict(error), "block": block, "losses": losses, "pause_seconds": pause_s}
    values = counted | {
        "run_after": from_now(pause_s),
        "last_loss": {**error, "block": block, "losses": losses, "pause_seconds": pause_s},
    }
    return _end(connection, job.id, job.attempt, State.QUEUED, [("retrying", data)], values)


def backoff_s(losses: int, settings: Settings, *, is_outage: bool = False) -> float:
    """The pause after so many losses in a row, in seconds."""
    factor = OUTAGE_FACTOR if is_outage else 2.0 ** min(losses - 1, MAX_DOUBLINGS)
    return min(settings.retry_backoff_s * factor, MAX_BACKOFF_S)


def _where_it_was(connection: Connection, job_id: str) -> tuple[int, str | None]:
    """The block after the last checkpoint, and the phase; of a job that is about to be lost."""
    last = select(func.max(checkpoints.c.block)).where(checkpoints.c.job_id == job_id)
    phase = select(jobs.c.phase).where(jobs.c.id == job_id)
    block = connection.execute(last).scalar()
    return 0 if block is None else block + 1, connection.execute(phase).scalar()


def _end(
    connection: Connection,
    job_id: str,
    attempt: int,
    to: State,
    events: Sequence[NewEvent],
    values: Mapping[str, Any] | None = None,
) -> Job:
    """The end of an attempt."""
    job = change(connection, *_held(job_id, attempt), to=to, events=events, values=values)
    if job is not None:
        if to in (State.FAILED, State.CANCELLED):
            chains.settle(connection, job)
        return job
    if look(connection, job_id, attempt).cancel:
        raise CancelRequested(f"{job_id} is to be cancelled")
    raise _lost(job_id, attempt)


def _held(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return (jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(HELD))


def _answer(state: str | None, job_id: str, attempt: int) -> Beat:
    if state is None:
        raise _lost(job_id, attempt)
    return Beat(cancel=state == State.CANCELLING)


def _lost(job_id: str, attempt: int) -> LeaseLost:
    return LeaseLost(f"attempt {attempt} no longer holds {job_id}")
