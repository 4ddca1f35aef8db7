"""Whether the history of a service holds together as a whole, seen through the back door.

`Flaw.kind` says what went wrong with a job:

    stuck     accepted, and not ended in time
    lost      accepted, and gone, failed, or not whole: files missing, or other than they should be
    doubled   more than one attempt had it, or what a stale attempt made was published
    untidy    it ended well, and something is left over
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select

from jobs import repository
from jobs.artifacts import files_prefix, log_key
from jobs.errors import JobNotFound
from jobs.job import Artifact, Job, JobEvent
from jobs.schema import artifacts, checkpoints, job_secrets
from jobs.states import HELD, TERMINAL, TRANSITIONS, State
from tests.columns import stored_keys
from tests.fault.worker.support import House

KINDS = ("stuck", "lost", "doubled", "untidy")

# event -> the state that a job enters by it; other events are what an attempt tells
ENTERS = {
    "accepted": State.QUEUED,
    "started": State.RUNNING,
    "retrying": State.QUEUED,
    "requeued": State.QUEUED,
    "cancelling": State.CANCELLING,
    "cancelled": State.CANCELLED,
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
}


@dataclass(frozen=True)
class Flaw:
    kind: str
    job_id: str
    what: str


@dataclass(frozen=True)
class Expected:
    """How a job is to end."""

    state: State = State.SUCCEEDED
    sha256: Mapping[str, str] = field(default_factory=dict)  # of what is known beforehand


def flaws(house: House, expected: Mapping[str, Expected]) -> list[Flaw]:
    """Everything that is wrong, of all jobs that were ever accepted and not deleted."""
    found: list[Flaw] = []
    published: set[str] = set()
    logs: set[str] = set()
    for job_id, expectation in expected.items():
        try:
            job = house.get_by_id(job_id)
        except JobNotFound:
            found.append(Flaw("lost", job_id, "it has no row"))
            continue
        if not job.is_terminal:
            found.append(Flaw("stuck", job_id, f"it is {job.state} ({job.phase})"))
        elif job.state != expectation.state:
            found.append(Flaw("lost", job_id, f"it {job.state}: {job.error}"))
        if (wrong := illegal(_events(house, job), job)) is not None:
            found.append(Flaw("doubled", job_id, wrong))
        files = house.artifacts(job)
        found += _of_files(house, job, files, expectation.sha256)
        published |= {file.key for file in files}
        logs |= {log_key(job.id, attempt) for attempt in range(1, job.attempt + 1)}
        if job.is_terminal and (left := rows_left(house, job)):
            found.append(Flaw("untidy", job_id, left))
    for key in stored_keys(house.store) - published - logs:
        found.append(Flaw("untidy", key.split("/")[1], f"{key} belongs to nobody"))
    return found


def _events(house: House, job: Job) -> list[JobEvent]:
    with house.database.read() as connection:
        return repository.events_after(connection, job.id)


def illegal(events: list[JobEvent], job: Job) -> str | None:
    """What in a job's events cannot have happened in this order; None if all of it can."""
    if [event.seq for event in events] != list(range(1, job.event_seq + 1)):
        return f"{job.event_seq} events, and these are there: {[event.seq for event in events]}"
    state: State | None = None
    attempt = 0
    for event in events:
        if state in TERMINAL:
            return f"{event.type} (event {event.seq}) after it {state}"
        to = ENTERS.get(event.type)
        if to is None:
            if state not in HELD:
                return f"{event.type} (event {event.seq}) while it was {state}"
            continue
        legal = {State.QUEUED} if state is None else TRANSITIONS[state]
        if to not in legal or (state is None) != (event.type == "accepted"):
            return f"{event.type} (event {event.seq}) while it was {state}"
        state = to
        if event.type == "started":
            attempt += 1
            if event.data["attempt"] != attempt:
                return f"attempt {event.data['attempt']} follows attempt {attempt - 1}"
    if (state, attempt) != (job.state, job.attempt):
        return f"the row says {job.state}, attempt {job.attempt}; events: {state}, {attempt}"
    return None


def _of_files(
    house: House, job: Job, files: list[Artifact], sha256: Mapping[str, str]
) -> list[Flaw]:
    """Exactly one whole set of files, of the attempt that succeeded; none of another job."""
    if job.state != State.SUCCEEDED:
        return [Flaw("doubled", job.id, "it shows files")] if files else []
    found = []
    by_path = {file.path: file for file in files}
    there = stored_keys(house.store)
    for file in files:
        if not file.key.startswith(files_prefix(job.id, job.attempt) + "/"):
            found.append(Flaw("doubled", job.id, f"{file.key} is not of attempt {job.attempt}"))
        if file.key not in there:
            found.append(Flaw("lost", job.id, f"{file.key} is not in the store"))
            continue
        content = house.content(file.key)
        digest = hashlib.sha256(content).hexdigest()
        if (len(content), digest) != (file.size_bytes, file.sha256):
            found.append(Flaw("lost", job.id, f"{file.path} is not what its row says"))
        if digest != sha256.get(file.path, digest):
            found.append(Flaw("lost", job.id, f"{file.path} is not what it should be"))
    if missing := ({"manifest.json"} | set(sha256)) - set(by_path):
        return [*found, Flaw("lost", job.id, f"without {sorted(missing)}")]
    if by_path["manifest.json"].key not in there:
        return found
    manifest = json.loads(house.content(by_path["manifest.json"].key))
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    rows = {file.path: file.sha256 for file in files if file.path != "manifest.json"}
    if (manifest["attempt"], listed) != (job.attempt, rows):
        found.append(Flaw("doubled", job.id, "its manifest is not of its files"))
    return found


def rows_left(house: House, job: Job) -> str | None:
    """What a job that ended still has rows of, and should not."""
    with house.database.read() as connection:
        for table in (checkpoints, job_secrets):
            query = select(func.count()).where(table.c.job_id == job.id)
            if count := connection.execute(query).scalar():
                return f"{count} rows of {table.name}"
    return None


def nothing_left(house: House) -> list[Flaw]:
    """The same once every job was deleted and swept: no file, no object."""
    found = [Flaw("untidy", key, "is still in the store") for key in stored_keys(house.store)]
    with house.database.read() as connection:
        if count := connection.execute(select(func.count()).select_from(artifacts)).scalar():
            found.append(Flaw("untidy", "-", f"{count} rows of artifacts"))
    if not house.no_scratch_left():
        found.append(Flaw("untidy", "-", "scratch is not empty"))
    return found
