"""The face's side of the records: accept, look, list, cancel, delete.

The workers' side is `jobs.leases`, the sweeper's `jobs.maintenance`. Every function works in the
caller's transaction. `owner` limits a function to that owner's jobs: those of others are not
found, like those that were deleted. None means everybody's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    bindparam,
    insert,
    select,
    type_coerce,
)

from jobs import chains, cursors
from jobs.clock import Timestamp, now
from jobs.errors import (
    JobAlreadyFinished,
    JobInUse,
    JobNotFinished,
    JobNotFound,
)
from jobs.job import Artifact, Job, JobEvent, new_job_id
from jobs.rows import append, change, job_from_row
from jobs.schema import artifacts, input_model, job_events, job_labels, jobs
from jobs.states import TERMINAL, State

ANY_DEVICE = "any"
IDS_AT_ONCE = 500  # in one statement

Wanted = tuple[str, str | None]  # a job's id, and the owner whose it must be

# the statements of the busiest requests: to build one takes longer than to run it
_ACCEPT = (
    insert(jobs)
    .values(
        state=State.QUEUED,
        attempt=0,
        infra_losses=0,
        event_seq=1,
        # no limit: NULL, and so is the sum
        expires_at=type_coerce(
            type_coerce(now(), BigInteger) + bindparam("max_pending_ms", type_=BigInteger),
            Timestamp,
        ),
        created_at=now(),
        run_after=now(),
    )
    .returning(*jobs.c)
)
_LABEL = insert(job_labels)
_LATEST_EVENTS = select(jobs.c.id, jobs.c.event_seq).where(
    jobs.c.id.in_(bindparam("wanted", expanding=True)), jobs.c.deleted_at.is_(None)
)
_GET_MANY = select(jobs).where(
    jobs.c.id.in_(bindparam("wanted", expanding=True)), jobs.c.deleted_at.is_(None)
)
_GET = select(jobs).where(jobs.c.id == bindparam("wanted"), jobs.c.deleted_at.is_(None))
_GET_OF_OWNER = _GET.where(jobs.c.owner == bindparam("of_owner"))


@dataclass(frozen=True)
class NewJob:
    """A job to accept; what each field means: `jobs.job`."""

    type: str
    input: Mapping[str, Any]
    id: str = field(default_factory=new_job_id)
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device_class: str = ANY_DEVICE
    priority: int = 0
    owner: str = ""
    max_pending_s: int | None = None
    max_runtime_s: int | None = None
    retry_of: str | None = None
    waits_for: str | None = None
    made_for: str | None = None
    idempotency_key: str | None = None
    body_sha256: str | None = None


def accept(connection: Connection, **fields: Any) -> Job:
    """`accept_all` of one; takes the fields of `NewJob`."""
    return accept_all(connection, [NewJob(**fields)])[0]


def accept_all(connection: Connection, new: Sequence[NewJob]) -> list[Job]:
    """Write queued jobs and the first event of each. Ring the doorbell after the commit.

    All or none: raises `IntegrityError` if another job has just taken one's idempotency key.
    """
    rows = [vars(one) | {"max_pending_ms": _max_pending_ms(one)} for one in new]
    written = {row.id: job_from_row(row) for row in connection.execute(_ACCEPT, rows)}
    jobs = [written[row["id"]] for row in rows]
    labels = [
        {"job_id": job.id, "key": key, "value": value}
        for job in jobs
        for key, value in job.labels.items()
    ]
    if labels:
        connection.execute(_LABEL, labels)
    repeats = ({"retry_of": job.retry_of} if job.retry_of else {} for job in jobs)
    append(
        connection, *((job, [("accepted", data)]) for job, data in zip(jobs, repeats, strict=True))
    )
    return jobs


def _max_pending_ms(new: NewJob) -> int | None:
    """What waits for another job is not to blame for it: its time begins when that has ended."""
    if new.max_pending_s is None or new.waits_for is not None:
        return None
    return new.max_pending_s * 1000


def get(connection: Connection, job_id: str, owner: str | None = None) -> Job:
    """The job; raises `JobNotFound`."""
    query = _GET if owner is None else _GET_OF_OWNER
    row = connection.execute(query, {"wanted": job_id, "of_owner": owner}).one_or_none()
    if row is None:
        raise _not_found(job_id)
    return job_from_row(row)


def lock(connection: Connection, job_id: str, owner: str | None = None) -> Job:
    """As `get`, and nobody ends or deletes it before this transaction ends. Others may lock it
    too."""
    query = select(jobs).where(jobs.c.id == job_id, *_visible(owner)).with_for_update(read=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _not_found(job_id)
    return job_from_row(row)


def get_many(connection: Connection, wanted: Sequence[Wanted]) -> list[Job | JobNotFound]:
    """What `get` returns or raises for each of them."""
    ids = [job_id for job_id, _ in wanted]
    found = {row.id: job_from_row(row) for row in connection.execute(_GET_MANY, {"wanted": ids})}
    answers: list[Job | JobNotFound] = []
    for job_id, owner in wanted:
        job = found.get(job_id)
        is_theirs = job is not None and owner in (None, job.owner)
        answers.append(job if job is not None and is_theirs else _not_found(job_id))
    return answers


def list_jobs(
    connection: Connection,
    *,
    state: State | None = None,
    type: str | None = None,
    model: str | None = None,
    labels: Mapping[str, str] | None = None,
    owner: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> tuple[list[Job], str | None]:
    """A page of jobs, newest first, and the cursor of the next page if there is one.

    Raises `InvalidCursor`.
    """
    query = select(jobs).where(*_visible(owner)).limit(limit + 1)
    newest_first = jobs.c.id
    if state is not None:
        query = query.where(jobs.c.state == state)
    if type is not None:
        query = query.where(jobs.c.type == type)
    if model is not None:
        query = query.where(input_model == model)
    for key, value in (labels or {}).items():
        label = job_labels.alias()
        query = query.join(label, label.c.job_id == jobs.c.id)
        query = query.where(label.c.key == key, label.c.value == value)
        newest_first = label.c.job_id  # in the order of the label's index
    if after is not None:
        query = query.where(newest_first < cursors.decode(after, "job_"))
    query = query.order_by(newest_first.desc())
    found = [job_from_row(row) for row in connection.execute(query)]
    page = found[:limit]
    return page, cursors.encode(page[-1].id) if len(found) > limit else None


def request_cancel(connection: Connection, job_id: str, owner: str | None = None) -> Job:
    """Ask for the end of a job: a queued one is cancelled at once, a running one is cancelling.

    So is the job that was made for it, if it waits for that one still and no other does. Asking
    twice is no error. Raises `JobNotFound`, `JobAlreadyFinished`.
    """
    this = (jobs.c.id == job_id, *_visible(owner))
    base_id = connection.execute(select(jobs.c.waits_for).where(*this)).scalar()
    if base_id is not None:  # the base first, as who ends that does
        connection.execute(select(jobs.c.id).where(jobs.c.id == base_id).with_for_update())
    # locked first: a job that is drained between the two steps would slip through both
    base_id = connection.execute(select(jobs.c.waits_for).where(*this).with_for_update()).scalar()
    values = {"cancel_requested_at": now()}
    queued = (*this, jobs.c.state == State.QUEUED)
    job = change(
        connection, *queued, to=State.CANCELLED, events=[("cancelled", {})], values=values
    ) or change(connection, *this, to=State.CANCELLING, events=[("cancelling", {})], values=values)
    if job is None:
        job = get(connection, job_id, owner)
        if job.state in (State.SUCCEEDED, State.FAILED):
            raise JobAlreadyFinished(f"{job_id} has {job.state} already")
    elif job.state == State.CANCELLED:
        chains.settle(connection, job)
        if base_id is not None and chains.is_needless(connection, base_id, job):
            request_cancel(connection, base_id)
    return job


def delete(connection: Connection, job_id: str, owner: str | None = None) -> None:
    """Hide a job that has ended, for good; a sweep removes its objects and then its row.

    Raises `JobNotFound`, `JobNotFinished`, `JobInUse` while a finetune job trains on it.
    """
    ended = (*_visible(owner), jobs.c.state.in_(TERMINAL))
    # the key is free again: whoever repeats the request wants a job, not a deleted one
    values = {"deleted_at": now(), "idempotency_key": None, "body_sha256": None}
    if change(connection, jobs.c.id == job_id, *ended, values=values) is None:
        job = get(connection, job_id, owner)
        raise JobNotFinished(f"{job_id} is {job.state}; cancel it or wait for its end")
    # asked after the change, which waits for who is just accepting such a job
    users = select(jobs.c.id).where(
        jobs.c.state.in_(set(State) - TERMINAL), jobs.c.input["base"].as_string() == job_id
    )
    if (user := connection.execute(users.limit(1)).scalar()) is not None:
        raise JobInUse(f"{job_id} is the base of {user}; cancel that job or wait for its end")


def events_after(
    connection: Connection, job_id: str, after: int = 0, limit: int = 1000
) -> list[JobEvent]:
    """The events with a sequence number larger than `after`, oldest first.

    Empty for an unknown job too: ask `get` first where that matters.
    """
    columns = (job_events.c.seq, job_events.c.type, job_events.c.at, job_events.c.data)
    query = (
        select(*columns)
        .where(job_events.c.job_id == job_id, job_events.c.seq > after)
        .order_by(job_events.c.seq)
        .limit(limit)
    )
    return [JobEvent(**row._mapping) for row in connection.execute(query)]


def latest_events(connection: Connection, job_ids: Iterable[str]) -> dict[str, int]:
    """The sequence number of each job's latest event; jobs that are gone are left out."""
    found: dict[str, int] = {}
    ids = iter(job_ids)
    while some := list(islice(ids, IDS_AT_ONCE)):
        rows = connection.execute(_LATEST_EVENTS, {"wanted": some})
        found.update((row.id, row.event_seq) for row in rows)
    return found


def artifacts_of(connection: Connection, job_id: str) -> list[Artifact]:
    """What a job published, by path; empty unless it succeeded."""
    columns = [column for column in artifacts.c if column.name != "job_id"]
    query = select(*columns).where(artifacts.c.job_id == job_id).order_by(artifacts.c.path)
    return [Artifact(**row._mapping) for row in connection.execute(query)]


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}")


def _visible(owner: str | None) -> tuple[ColumnElement[bool], ...]:
    visible = (jobs.c.deleted_at.is_(None),)
    return visible if owner is None else (*visible, jobs.c.owner == owner)
