"""The tables. `migrations/` creates and changes them; a test keeps the two equal."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from jobs.clock import Timestamp
from jobs.states import HELD, TERMINAL, State

# a None is SQL NULL, never the JSON text `null`
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _states(states: frozenset[State]) -> str:
    return ", ".join(f"'{state}'" for state in State if state in states)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# what each column means: jobs/job.py
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("type", String(20), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("state", String(20), nullable=False),
    Column("phase", String(20)),
    Column("attempt", Integer, nullable=False),
    Column("infra_losses", Integer, nullable=False),
    Column("event_seq", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("device_class", String(20), nullable=False),
    Column("input", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("retry_of", String(40)),
    Column("idempotency_key", String(255)),
    Column("body_sha256", String(64)),
    Column("progress", Json),
    Column("error", Json),
    Column("last_loss", Json),
    Column("metrics", Json),
    Column("created_at", Timestamp, nullable=False),
    Column("started_at", Timestamp),
    Column("finished_at", Timestamp),
    Column("cancel_requested_at", Timestamp),
    Column("max_pending_s", Integer),
    Column("max_runtime_s", Integer),
    Column("expires_at", Timestamp),
    Column("deleted_at", Timestamp),
    Column("run_after", Timestamp, nullable=False),
    Column("lease_until", Timestamp),
    Column("worker_id", String(100)),
    Column("loss_block", Integer),
    Column(
        "waits_for",
        String(40),
        CheckConstraint(f"waits_for IS NULL OR state = '{State.QUEUED}'", name="waits_for"),
    ),
    Column("made_for", String(40)),
    CheckConstraint(f"state IN ({_states(frozenset(State))})", name="state"),
    CheckConstraint(f"(state IN ({_states(HELD)})) = (lease_until IS NOT NULL)", name="lease"),
    CheckConstraint(
        f"(state IN ({_states(TERMINAL)})) = (finished_at IS NOT NULL)", name="finished"
    ),
    CheckConstraint(f"(state = '{State.FAILED}') = (error IS NOT NULL)", name="error"),
    CheckConstraint("attempt >= 0 AND infra_losses >= 0 AND event_seq >= 1", name="counters"),
)
# the model that a job is about. Spelled out: databases take an index on an expression only for a
# query that has the very same one, and not with a parameter in it
input_model = literal_column("(input ->> 'model')", String)

# list: newest first, of one state, owner or model, of an owner and a state; otherwise the primary
# key does, or job_labels
Index("ix_jobs_state_id", jobs.c.state, jobs.c.id)
Index("ix_jobs_owner_id", jobs.c.owner, jobs.c.id)
Index("ix_jobs_owner_state_id", jobs.c.owner, jobs.c.state, jobs.c.id)
Index("ix_jobs_model_id", input_model, jobs.c.id)


def _partial(name: str, condition: str, *columns: ColumnElement[Any], unique: bool = False) -> None:
    where = text(condition)
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


# claim: the best runnable row; priority, then age (ids are ordered by time). The state comes first
# although it is always the same: without statistics, which nobody gathers for it, SQLite would
# rather search ix_jobs_state_id and sort the whole queue
_is_queued = f"state = '{State.QUEUED}' AND waits_for IS NULL"
_partial("ix_jobs_claim", _is_queued, jobs.c.state, jobs.c.priority.desc(), jobs.c.id)
# one job a key
_partial(
    "ix_jobs_idempotency",
    "idempotency_key IS NOT NULL",
    jobs.c.owner,
    jobs.c.idempotency_key,
    unique=True,
)
# who waits for a job, when that ends
_partial("ix_jobs_waits_for", "waits_for IS NOT NULL", jobs.c.waits_for)
# sweep: leases that lapsed, limits that are over, what is old, what is deleted
_partial("ix_jobs_lease", "lease_until IS NOT NULL", jobs.c.lease_until)
_partial("ix_jobs_expires", "expires_at IS NOT NULL", jobs.c.expires_at)
_partial("ix_jobs_finished", "finished_at IS NOT NULL", jobs.c.finished_at)
_partial("ix_jobs_deleted", "deleted_at IS NOT NULL", jobs.c.deleted_at)

# jobs.labels once more, to find a job by; written with the job and never changed
job_labels = Table(
    "job_labels",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(255), nullable=False),
)
Index("ix_job_labels_key_value_job_id", job_labels.c.key, job_labels.c.value, job_labels.c.job_id)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),  # 1, 2, 3 ... without a gap: jobs.event_seq counts
    Column("type", String(20), nullable=False),
    Column("at", Timestamp, nullable=False),
    Column("data", Json, nullable=False),
)

# what a succeeded job published; committed together with `succeeded`
artifacts = Table(
    "artifacts",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(500), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("content_type", String(100), nullable=False),
    Column("key", String(700), nullable=False),  # in the artifact store
)

# the finished blocks of a job that has not ended: jobs/checkpoints.py
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("key", String(700), nullable=False),  # in the artifact store
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(200)),
    Column("kind", String(20), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("characters", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),  # nobody sees it any more; a sweep removes it
    Column("rows", BigInteger),
    Column("duplicates", BigInteger),
    Column("longest_row_characters", BigInteger),
    Column("chats", BigInteger),
    Column("origin", Json),
    CheckConstraint("kind IN ('text', 'rows')", name="kind"),
    CheckConstraint("(kind = 'rows') = (rows IS NOT NULL)", name="rows"),
    CheckConstraint("(kind = 'rows') = (duplicates IS NOT NULL)", name="duplicates"),
)
Index("ix_datasets_owner_id", datasets.c.owner, datasets.c.id)
_partial("ix_datasets_deleted", "deleted_at IS NOT NULL", datasets.c.deleted_at)

# what each column means: jobs/keys.py
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("revoked_at", Timestamp),
)

# the hub token of a job that has not ended, encrypted
job_secrets = Table(
    "job_secrets",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("hub_token", String(2000), nullable=False),
)

# who may do a task that only one worker should do at a time; a row per task
leaders = Table(
    "leaders",
    metadata,
    Column("task", String(20), primary_key=True),
    Column("worker_id", String(100), nullable=False),
    Column("until", Timestamp, nullable=False),
)
