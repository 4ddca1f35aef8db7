"""The one way in which a job's row is written: a conditional UPDATE, with its events."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, update

from jobs.clock import now
from jobs.job import Job
from jobs.schema import job_events, job_secrets, jobs
from jobs.states import HELD, TERMINAL, State, sources

NewEvent = tuple[str, Mapping[str, Any]]  # type, data

_APPEND = insert(job_events).values(at=now())


def job_from_row(row: Row[Any]) -> Job:
    """The value of a row."""
    values = row._asdict()
    values["state"] = State(values["state"])
    return Job(**values)


def change(
    connection: Connection,
    *conditions: ColumnElement[bool],
    to: State | None = None,
    events: Sequence[NewEvent] = (),
    values: Mapping[str, Any] | None = None,
) -> Job | None:
    """Change the one row that meets `conditions` and append `events` to its history.

    With `to`, only a state from which `to` may be entered meets them. None: no row did.
    The conditions must name the row's id.
    """
    changed: dict[str, Any] = {**(values or {}), "event_seq": jobs.c.event_seq + len(events)}
    if to is not None:
        conditions += (jobs.c.state.in_(sources(to)),)
        changed |= {"state": to, "last_loss": (values or {}).get("last_loss")}  # of this move alone
        if to not in HELD:
            changed |= {"lease_until": None, "phase": None}
        if to == State.QUEUED:  # what the next attempt has to do is not known before it
            changed |= {"progress": None}
        if to in TERMINAL:
            changed |= {"finished_at": now(), "expires_at": None, "waits_for": None}
    statement = update(jobs).where(*conditions).values(changed).returning(*jobs.c)
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    job = job_from_row(row)
    append(connection, (job, events))
    if to in TERMINAL:
        connection.execute(delete(job_secrets).where(job_secrets.c.job_id == job.id))
    return job


def append(connection: Connection, *histories: tuple[Job, Sequence[NewEvent]]) -> None:
    """Insert the events of each job that its `event_seq` counts already."""
    rows = [
        {"job_id": job.id, "seq": seq, "type": kind, "data": dict(data)}
        for job, events in histories
        for seq, (kind, data) in enumerate(events, job.event_seq - len(events) + 1)
    ]
    if rows:
        connection.execute(_APPEND, rows)
