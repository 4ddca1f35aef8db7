"""All that the database holds about jobs, to compare: with the model, and before with after."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Table, select, type_coerce

from jobs.clock import Timestamp
from jobs.database import Database
from jobs.schema import artifacts, checkpoints, job_events, job_labels, job_secrets, jobs
from jobs.states import TERMINAL, TRANSITIONS, State
from tests.integration.jobs.job_model import ModelJob


def _whole(table: Table) -> Any:
    columns = [
        type_coerce(column, BigInteger).label(column.name)
        if isinstance(column.type, Timestamp)
        else column
        for column in table.c
    ]
    return select(*columns).order_by(*table.primary_key.columns)


QUERIES = [
    _whole(table) for table in (jobs, job_events, artifacts, job_secrets, checkpoints, job_labels)
]

# of a job that has ended, these may still change: it is deleted
OF_DELETION = {"deleted_at", "idempotency_key", "body_sha256"}

Row = dict[str, Any]


@dataclass(frozen=True)
class JobRows:
    """Every row that belongs to one job; moments as milliseconds."""

    job: Row
    events: list[Row]
    artifacts: list[Row]
    secrets: list[Row]
    checkpoints: list[Row]
    labels: list[Row]


def read(database: Database) -> dict[str, JobRows]:
    """Of each job by id, oldest first."""
    with database.read() as connection:
        tables = [[dict(row._mapping) for row in connection.execute(query)] for query in QUERIES]
    found = {row["id"]: JobRows(row, [], [], [], [], []) for row in tables[0]}
    for name, rows in zip(
        ("events", "artifacts", "secrets", "checkpoints", "labels"), tables[1:], strict=True
    ):
        for row in rows:
            getattr(found[row["job_id"]], name).append(row)
    return found


def check(rows: JobRows) -> None:
    """What holds of a job at any moment."""
    job = rows.job
    state = State(job["state"])
    assert [event["seq"] for event in rows.events] == list(range(1, job["event_seq"] + 1))
    ends = [event["type"] for event in rows.events if event["type"] in {str(s) for s in TERMINAL}]
    assert ends == ([state] if state in TERMINAL else [])
    assert bool(rows.artifacts) == (state is State.SUCCEEDED)
    assert len({artifact["key"].split("/")[3] for artifact in rows.artifacts}) <= 1
    assert state not in TERMINAL or not rows.secrets
    assert {label["key"]: label["value"] for label in rows.labels} == job["labels"]
    assert (job["metrics"] is not None) == (state is State.SUCCEEDED)
    if job["attempt"] and "base" in job["input"]:
        assert "base_manifest_sha256" in job["input"]


def check_step(old: JobRows, new: JobRows) -> None:
    """What holds between two moments: history only grows, and an end is the end."""
    before, after = State(old.job["state"]), State(new.job["state"])
    assert after is before or after in TRANSITIONS[before]
    assert new.events[: len(old.events)] == old.events
    assert 0 <= new.job["attempt"] - old.job["attempt"] <= 1
    if before in TERMINAL:
        assert new.events == old.events
        assert new.artifacts == old.artifacts
        changed = {name for name, value in new.job.items() if value != old.job[name]}
        assert changed <= OF_DELETION


def check_model(rows: JobRows, expected: ModelJob) -> None:
    """The row says what the model says, to the millisecond."""
    job = rows.job
    assert {name: job[name] for name in (*OF_MODEL, "progress", "error")} == {
        name: getattr(expected, attribute) for name, attribute in OF_MODEL.items()
    } | {
        "progress": None if expected.progress is None else {"done": expected.progress},
        "error": job["error"] if expected.error else None,
    }
    if expected.error is not None:
        assert job["error"]["code"] == expected.error
    assert [(event["type"], event["at"]) for event in rows.events] == expected.history
    assert tuple(artifact["key"] for artifact in rows.artifacts) == expected.files
    assert bool(rows.secrets) == expected.token
    assert {row["block"]: row["attempt"] for row in rows.checkpoints} == expected.blocks


OF_MODEL = {  # column -> attribute
    "state": "state",
    "phase": "phase",
    "attempt": "attempt",
    "infra_losses": "losses",
    "loss_block": "loss_block",
    "retry_of": "retry_of",
    "waits_for": "waits_for",
    "made_for": "made_for",
    "idempotency_key": "key",
    "created_at": "created_at",
    "started_at": "started_at",
    "finished_at": "finished_at",
    "cancel_requested_at": "cancel_requested_at",
    "expires_at": "expires_at",
    "deleted_at": "deleted_at",
    "run_after": "run_after",
    "lease_until": "lease_until",
    "worker_id": "worker",
}
