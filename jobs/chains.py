"""Jobs that wait for another one: a finetune job for the quantize job that it trains on.

`waits_for` of such a job names the other exactly while it waits; nobody claims it till then.
What ends the wait is written in the transaction that ends the base, so that no crash comes between
the two. Every function works in the caller's transaction, and who changes both locks the base
first.
"""

from typing import Any

from sqlalchemy import Connection, select

from jobs.artifacts import MANIFEST
from jobs.clock import from_now
from jobs.job import Job
from jobs.rows import change, job_from_row
from jobs.schema import artifacts, jobs
from jobs.states import State


def settle(connection: Connection, base: Job) -> None:
    """Let those that wait for a job that has ended go on, or end with it."""
    waiting = select(jobs).where(jobs.c.waits_for == base.id)
    for job in [job_from_row(row) for row in connection.execute(waiting)]:
        if base.state == State.SUCCEEDED:
            _release(connection, job, base)
        else:
            error = base_failed(base)
            change(
                connection,
                jobs.c.id == job.id,
                to=State.FAILED,
                events=[("failed", {"error": error})],
                values={"error": error},
            )


def pinned_of(connection: Connection, base: Job) -> dict[str, Any]:
    """What the input of a finetune job says of a base that has succeeded."""
    query = select(artifacts.c.sha256).where(
        artifacts.c.job_id == base.id, artifacts.c.path == MANIFEST
    )
    return {"base_manifest_sha256": connection.execute(query).scalar_one()}


def base_failed(base: Job) -> dict[str, Any]:
    """The error of a job that waited for one that has failed or was cancelled."""
    why = base.error or {"code": "cancelled", "message": "", "fault": "user", "retryable": True}
    ended = f"has failed, {why['code']}: {why['message']}" if base.error else "was cancelled"
    return {
        "code": "base_failed",
        "message": f"{base.id}, which this job was to train on, {ended}",
        "param": "base",
        "fault": why["fault"],
        "retryable": why["retryable"],
        "base": base.id,
        "base_code": why["code"],
    }


def is_needless(connection: Connection, base_id: str, gone: Job) -> bool:
    """Whether a job was made for one that does not wait for it any more, and no other does."""
    base = select(jobs.c.id).where(
        jobs.c.id == base_id,
        jobs.c.made_for == gone.id,
        jobs.c.state.in_([State.QUEUED, State.RUNNING]),
    )
    others = select(jobs.c.id).where(jobs.c.waits_for == base_id).limit(1)
    return (
        connection.execute(base).scalar() is not None
        and connection.execute(others).scalar() is None
    )


def _release(connection: Connection, waiting: Job, base: Job) -> None:
    """From now on it may be claimed, and its `max_pending_s` counts."""
    limit_s = waiting.max_pending_s
    change(
        connection,
        jobs.c.id == waiting.id,
        events=[("released", {"base": base.id})],
        values={
            "waits_for": None,
            "input": waiting.input | pinned_of(connection, base),
            "expires_at": None if limit_s is None else from_now(limit_s),
        },
    )
