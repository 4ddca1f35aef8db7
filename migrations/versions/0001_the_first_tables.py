"""The first tables: jobs, their events, artifacts and secrets, datasets, API keys, leaders."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Json = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("phase", sa.String(20)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("infra_losses", sa.Integer, nullable=False),
        sa.Column("event_seq", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("device_class", sa.String(20), nullable=False),
        sa.Column("input", Json, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("retry_of", sa.String(40)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("body_sha256", sa.String(64)),
        sa.Column("progress", Json),
        sa.Column("error", Json),
        sa.Column("metrics", Json),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("cancel_requested_at", sa.BigInteger),
        sa.Column("max_pending_s", sa.Integer),
        sa.Column("max_runtime_s", sa.Integer),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("run_after", sa.BigInteger, nullable=False),
        sa.Column("rung_at", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("worker_id", sa.String(100)),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('running', 'cancelling')) = (lease_until IS NOT NULL)",
            name=op.f("ck_jobs_lease"),
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished"),
        ),
        sa.CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name=op.f("ck_jobs_error")),
        sa.CheckConstraint(
            "attempt >= 0 AND infra_losses >= 0 AND event_seq >= 1",
            name=op.f("ck_jobs_counters"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    partial_index("ix_jobs_claim", "jobs", ["priority DESC", "id"], "state = 'queued'")
    partial_index(
        "ix_jobs_idempotency",
        "jobs",
        ["owner", "idempotency_key"],
        "idempotency_key IS NOT NULL",
        unique=True,
    )
    partial_index("ix_jobs_lease", "jobs", ["lease_until"], "lease_until IS NOT NULL")
    partial_index("ix_jobs_expires", "jobs", ["expires_at"], "expires_at IS NOT NULL")
    partial_index("ix_jobs_finished", "jobs", ["finished_at"], "finished_at IS NOT NULL")
    partial_index("ix_jobs_deleted", "jobs", ["deleted_at"], "deleted_at IS NOT NULL")
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    op.create_index("ix_jobs_owner_id", "jobs", ["owner", "id"])
    op.create_index("ix_jobs_owner_state_id", "jobs", ["owner", "state", "id"])
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_job_events")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_events_job_id_jobs"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("path", sa.String(500), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content_type", sa.String(100), nullable=False),
        sa.Column("key", sa.String(700), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "path", name=op.f("pk_artifacts")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_artifacts_job_id_jobs"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200)),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("characters", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.CheckConstraint("kind IN ('text')", name=op.f("ck_datasets_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_index("ix_datasets_owner_id", "datasets", ["owner", "id"])
    partial_index("ix_datasets_deleted", "datasets", ["deleted_at"], "deleted_at IS NOT NULL")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "job_secrets",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("hub_token", sa.String(2000), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_secrets")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_secrets_job_id_jobs"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "leaders",
        sa.Column("task", sa.String(20), nullable=False),
        sa.Column("worker_id", sa.String(100), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_leaders")),
    )
    op.execute(
        "INSERT INTO leaders (task, worker_id, until) VALUES ('sweep', '', 0), ('quotas', '', 0)"
    )


def partial_index(
    name: str, table: str, columns: list[str], condition: str, *, unique: bool = False
) -> None:
    where = sa.text(condition)
    op.create_index(
        name,
        table,
        [sa.text(column) if " " in column else column for column in columns],
        unique=unique,
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    tables = ("leaders", "job_secrets", "api_keys", "datasets", "artifacts", "job_events", "jobs")
    for table in tables:
        op.drop_table(table)
